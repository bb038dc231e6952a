#pragma once

#include <sys/epoll.h>

#include <array>
#include <chrono>
#include <cstdint>

#include "file_descriptor.h"

/// Waits for events of many descriptors at once, each known by a number, or for another thread to wake it.
class Poller {
 public:
  /// Throws FatalError where the system gives no descriptors to wait with.
  Poller();

  /// The events of epoll(7) that are waited for from now on. A descriptor that is closed leaves by itself.
  void add(int fd, uint64_t id, uint32_t events) const { control(EPOLL_CTL_ADD, fd, id, events); }
  void change(int fd, uint64_t id, uint32_t events) const { control(EPOLL_CTL_MOD, fd, id, events); }

  /// Ends the wait; any thread may call it.
  void wake() const;

  /// Calls see(id, events) for what has happened, once something has or the time is up.
  template <typename See>
  void wait(std::chrono::milliseconds most, See see) {
    const int count = epoll_wait(epoll_.get(), events_.data(), events_.size(), static_cast<int>(most.count()));
    for (int i = 0; i < count; ++i) {
      if (events_[i].data.u64 == kWake) {
        forget_wake();
      } else {
        see(events_[i].data.u64, events_[i].events);
      }
    }
  }

 private:
  static constexpr uint64_t kWake = UINT64_MAX;

  void control(int operation, int fd, uint64_t id, uint32_t events) const;
  void forget_wake() const;

  FileDescriptor epoll_, wake_event_;
  std::array<epoll_event, 256> events_;
};
