#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine.h"

/// Rows of many callers, put together into batches and scored by a few workers. A batch is of rows of like length,
/// whoever sent them, the one that has waited longest among them; each caller gets its answers in its own order.
class Dispatcher {
 public:
  using Clock = std::chrono::steady_clock;

  struct Batched {
    size_t rows;
    int64_t tokens;
  };

  /// `workers` runs at once. At most `most_rows` rows wait. `on_batch` is told of each run, on a worker's thread.
  Dispatcher(Engine& engine, int workers, size_t most_rows, std::function<void(Batched)> on_batch);
  ~Dispatcher();  // what waits is still scored

  enum class Outcome { kDone, kFull, kLate };

  struct Scored {
    Outcome outcome;
    std::vector<Answer> answers;  // with kDone, one a question
  };

  /// Scores them, and waits for that until `deadline`. Rows that are in `error` already get their record. Throws
  /// FatalError where the model is at fault.
  Scored score(std::vector<PreparedQuestion> questions, Clock::time_point deadline = Clock::time_point::max());

  struct Run {
    Outcome outcome;
    std::vector<Logprobs> logprobs;  // with kDone, one a batch
  };

  /// Runs batches that are packed already, each by itself. Throws RowError where a run fails.
  Run run(std::vector<PackedBatch> batches, Clock::time_point deadline);

  size_t waiting_rows() const;

 private:
  struct Job;

  /// A row that waits: a question, or a batch of its own.
  struct Item {
    std::shared_ptr<Job> job;
    size_t index;  // among its job's
    std::optional<PreparedQuestion> question;
    std::optional<PackedBatch> packed;
  };

  Outcome wait_for(const std::shared_ptr<Job>& job, std::vector<Item> items, Clock::time_point deadline);
  void stop();
  void work();
  std::vector<Item> take_batch();
  void execute(std::vector<Item>& items);
  void finish(const std::vector<Item>& items, std::exception_ptr failure);

  Engine& engine_;
  const size_t most_rows_;
  const std::function<void(Batched)> on_batch_;

  mutable std::mutex mutex_;  // guards what follows, and what jobs say of their progress
  std::condition_variable changed_;
  std::deque<Item> waiting_;
  size_t last_callers_ = 1;  // of the batch taken last
  bool stopping_ = false;

  std::vector<std::thread> workers_;
};
