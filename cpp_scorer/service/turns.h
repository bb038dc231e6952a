#pragma once

#include <condition_variable>
#include <mutex>

/// So many may be at something at once: the others wait for a turn.
class Turns {
 public:
  explicit Turns(int count) : free_(count) {}

  /// Held as long as it lives.
  class Turn {
   public:
    explicit Turn(Turns& turns) : turns_(turns) {
      std::unique_lock lock(turns_.mutex_);
      turns_.changed_.wait(lock, [this] { return turns_.free_ > 0; });
      --turns_.free_;
    }
    ~Turn() {
      const std::lock_guard lock(turns_.mutex_);
      ++turns_.free_;
      turns_.changed_.notify_one();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Turns& turns_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int free_;
};
