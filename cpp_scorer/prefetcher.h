#pragma once

#include <optional>
#include <thread>

#include "bounded_queue.h"
#include "line_reader.h"
#include "prepared_question.h"
#include "prompt.h"

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
