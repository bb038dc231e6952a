#include "neutral_cache.h"

#include <utility>

namespace {

constexpr size_t kOverhead = 128;  // bytes of an entry besides its key and numbers, about

/// Unlike those of any other endings: each one's length stands before its ids.
std::string key_of(const NeutralCache::Endings& endings) {
  std::string key;
  const auto append = [&](int64_t number) { key.append(reinterpret_cast<const char*>(&number), sizeof number); };
  for (const auto& ids : endings) {
    append(static_cast<int64_t>(ids.size()));
    for (const int64_t id : ids) append(id);
  }
  return key;
}

size_t size_of(const std::string& key, const std::vector<float>& logprobs) {
  return key.size() + logprobs.size() * sizeof(float) + kOverhead;
}

}  // namespace

std::optional<std::vector<float>> NeutralCache::find(const Endings& endings) {
  const std::string key = key_of(endings);
  const std::lock_guard lock(busy_);
  const auto found = entries_.find(key);
  if (found == entries_.end()) return std::nullopt;
  return found->second;
}

void NeutralCache::store(const Endings& endings, const std::vector<float>& logprobs) {
  std::string key = key_of(endings);
  const size_t size = size_of(key, logprobs);
  const std::lock_guard lock(busy_);
  if (size > most_bytes_ || entries_.count(key) > 0) return;
  for (bytes_ += size; bytes_ > most_bytes_; oldest_.pop_front()) {
    const auto& [old_key, old_logprobs] = *oldest_.front();
    bytes_ -= size_of(old_key, old_logprobs);
    entries_.erase(entries_.find(old_key));
  }
  oldest_.push_back(&*entries_.emplace(std::move(key), logprobs).first);
}
