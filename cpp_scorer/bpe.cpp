#include "bpe.h"

#include <algorithm>
#include <utility>

#include "utf8.h"

namespace {

constexpr int32_t kNone = -1, kMergedAway = -2;

/// Order of the heap: on top the lowest rank, of equal ones the leftmost.
constexpr auto kLater = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
};

}  // namespace

std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    append_utf8(alphabet[byte], visible ? byte : next++);
  }
  return alphabet;
}

Bpe::Bpe(FirstTokens first, const std::vector<Merge>& merges) : first_(std::move(first)) {
  size_t size = 2;
  while (size <= 2 * merges.size()) size *= 2;
  table_.resize(size);
  uint32_t rank = 0;
  for (const Merge& merge : merges) {
    table_[slot(merge.left, merge.right)] = {merge.left, merge.right, rank++, merge.merged};
  }
}

/// Where the pair is, or the empty entry where it would be; less than half of them are taken.
size_t Bpe::slot(uint32_t left, uint32_t right) const {
  uint64_t hash = (uint64_t{left} << 32 | right) * 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
  hash ^= hash >> 32;
  const size_t mask = table_.size() - 1;
  size_t at = hash & mask;
  while (table_[at].left != kEmpty && (table_[at].left != left || table_[at].right != right)) at = (at + 1) & mask;
  return at;
}

/// Puts the pair that begins at `position` on the heap, if there is a merge for it.
void Bpe::offer(int32_t position, Scratch& scratch) const {
  const Scratch::Symbol& left = scratch.symbols[position];
  const Entry& entry = table_[slot(left.id, scratch.symbols[left.next].id)];
  if (entry.left == kEmpty) return;
  scratch.heap.push_back({entry.rank, position, entry.merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), kLater);
}

void Bpe::merge_all(Scratch& scratch) const {
  auto& [symbols, heap] = scratch;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), kLater);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[top.position];
    if (left.next < 0) continue;
    const Scratch::Symbol right = symbols[left.next];
    // The candidate is outdated unless its pair, or another that becomes the same token, still stands there.
    const Entry& entry = table_[slot(left.id, right.id)];
    if (entry.left == kEmpty || entry.merged != top.merged) continue;
    symbols[left.next].next = kMergedAway;
    left.id = top.merged;
    left.next = right.next;
    if (right.next != kNone) symbols[right.next].previous = top.position;
    if (left.previous != kNone) offer(left.previous, scratch);
    if (left.next != kNone) offer(top.position, scratch);
  }
}

void Bpe::split(std::string_view word, Scratch& scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  symbols.clear();
  const auto add = [&](uint32_t id) {
    if (id == FirstTokens::kLeftOut) return;
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  };
  for (size_t at = 0; at < word.size();) {
    size_t next = at + 1;
    if (!first_.characters.empty() && static_cast<unsigned char>(word[at]) >= 0x80) {
      const auto found = first_.characters.find(next_code_point(word, next = at));
      if (found != first_.characters.end()) {
        add(found->second);
        at = next;
      }
    }
    for (; at < next; ++at) add(first_.bytes[static_cast<unsigned char>(word[at])]);
  }
  if (!symbols.empty()) symbols.back().next = kNone;
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int64_t>& ids) const {
  split(word, scratch);
  if (scratch.symbols.empty()) return;
  scratch.heap.clear();
  for (int32_t at = 0; at + 1 < static_cast<int32_t>(scratch.symbols.size()); ++at) offer(at, scratch);
  merge_all(scratch);
  for (int32_t at = 0; at != kNone; at = scratch.symbols[at].next) ids.push_back(scratch.symbols[at].id);
}
