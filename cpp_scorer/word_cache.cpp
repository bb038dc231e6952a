#include "word_cache.h"

#include <algorithm>
#include <cstring>
#include <functional>

WordCache::WordCache() : entries_(kWords) {}

size_t WordCache::place(std::string_view word) { return std::hash<std::string_view>()(word) % kWords; }

bool WordCache::append(std::string_view word, std::vector<int64_t>& ids) const {
  const Entry& entry = entries_[place(word)];
  if (entry.size != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) return false;
  ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
  return true;
}

void WordCache::store(std::string_view word, const std::vector<int64_t>& ids, size_t first) {
  const size_t count = ids.size() - first;
  if (word.size() > kLongestWord || count > kMostIds) return;
  Entry& entry = entries_[place(word)];
  entry.size = static_cast<uint8_t>(word.size());
  entry.count = static_cast<uint8_t>(count);
  std::copy(word.begin(), word.end(), entry.word);
  std::copy(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end(), entry.ids);
}
