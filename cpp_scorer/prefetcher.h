#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <thread>

#include "bounded_queue.h"
#include "line_reader.h"
#include "prompt.h"
#include "question.h"

/// A question on its way to the session; or, where `error` says something, what is left of a broken row.
struct PreparedQuestion {
  std::string id;    // the row's own, else its number from 0
  size_t line = 0;   // from 1
  std::optional<int64_t> label;
  EncodedQuestion encoded;
  std::string error;
};

/// What a row may ask for; one that asks for more becomes an error record.
struct RowLimits {
  int64_t tokens = 0;      // of the prompt and all endings: attention takes memory by its square
  int64_t candidates = 0;  // the sums over their tokens take memory by tokens x candidates
};

/// Reads, parses and encodes questions on a thread of its own, a bounded number ahead of who takes them.
class Prefetcher {
 public:
  Prefetcher(LineReader& input, const PromptEncoder& encoder, const RowLimits& limits);
  ~Prefetcher();  // ends the thread, even one that waits for input

  /// The next question; empty at the end of the input. Throws FatalError where reading fails.
  std::optional<PreparedQuestion> next() { return queue_.pop(); }

  /// The next question if it lies ready and `wanted` accepts it.
  template <typename Predicate>
  std::optional<PreparedQuestion> next_if(Predicate wanted) {
    return queue_.pop_if(wanted);
  }

 private:
  void run(LineReader& input, const PromptEncoder& encoder, const RowLimits& limits);

  LineReader& input_;
  BoundedQueue<PreparedQuestion> queue_;
  std::thread thread_;
};
