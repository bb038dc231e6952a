#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

/// The log-probs after the neutral prompt of endings that were met lately: they do not depend on the question. They are
/// kept for a question's endings as a whole, since where a branch lies moves a log-prob's last digits. May be called
/// from several threads.
class NeutralCache {
 public:
  using Endings = std::vector<std::vector<int64_t>>;

  explicit NeutralCache(size_t most_bytes = 64 << 20) : most_bytes_(most_bytes) {}

  std::optional<std::vector<float>> find(const Endings& endings);

  /// Keeps them, and drops the oldest where that takes more than the bound.
  void store(const Endings& endings, const std::vector<float>& logprobs);

 private:
  using Entries = std::unordered_map<std::string, std::vector<float>>;

  const size_t most_bytes_;
  std::mutex busy_;
  Entries entries_;
  std::deque<const Entries::value_type*> oldest_;  // first in, first out; a map that grows moves no entry
  size_t bytes_ = 0;
};
