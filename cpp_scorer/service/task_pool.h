#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

/// Threads that do what is put before them, in order; at most `most_waiting` tasks wait.
class TaskPool {
 public:
  TaskPool(size_t threads, size_t most_waiting) : most_waiting_(most_waiting) {
    try {
      for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~TaskPool() { stop(); }  // what waits is still done

  /// Whether no task waits or runs.
  bool is_idle() {
    const std::lock_guard lock(mutex_);
    return tasks_.empty() && at_work_ == 0;
  }

  /// Whether there was room for it.
  bool put(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      if (tasks_.size() >= most_waiting_) return false;
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
    return true;
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      ++at_work_;
      lock.unlock();
      task();
      lock.lock();
      --at_work_;
    }
  }

  const size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  size_t at_work_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};
