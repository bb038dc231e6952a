#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

/// First in, first out, between one producer and one consumer thread; holds at most `capacity` items.
template <typename Item>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  /// Waits for room. Returns false, and drops the item, where the queue was closed.
  bool push(Item item) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || items_.size() < capacity_; });
    if (closed_) return false;
    items_.push_back(std::move(item));
    changed_.notify_one();
    return true;
  }

  /// Waits for an item. Empty where the queue is closed and drained; rethrows what the producer closed it with.
  std::optional<Item> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || !items_.empty(); });
    return take();
  }

  /// Like pop, but empty at once where nothing lies ready that `wanted` accepts.
  template <typename Predicate>
  std::optional<Item> pop_if(Predicate wanted) {
    std::lock_guard lock(mutex_);
    if (items_.empty() || !wanted(items_.front())) return std::nullopt;
    return take();
  }

  /// No more items: the consumer still gets those that lie here, then `failure` if there is one.
  void close(std::exception_ptr failure = nullptr) {
    std::lock_guard lock(mutex_);
    if (!closed_) failure_ = failure;
    closed_ = true;
    changed_.notify_all();
  }

 private:
  std::optional<Item> take() {
    if (items_.empty()) {
      if (failure_) std::rethrow_exception(failure_);
      return std::nullopt;
    }
    std::optional<Item> item(std::move(items_.front()));
    items_.pop_front();
    changed_.notify_one();
    return item;
  }

  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  std::exception_ptr failure_;
  bool closed_ = false;
};
