#include "poller.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "errors.h"

Poller::Poller() : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!epoll_.is_open() || !wake_event_.is_open()) throw FatalError("the system gives no descriptors to wait with");
  add(wake_event_.get(), kWake, EPOLLIN);
}

void Poller::control(int operation, int fd, uint64_t id, uint32_t events) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  epoll_ctl(epoll_.get(), operation, fd, &event);
}

void Poller::wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_event_.get(), &one, sizeof one);  // a full counter wakes too
}

void Poller::forget_wake() const {
  uint64_t count;
  [[maybe_unused]] const ssize_t got = read(wake_event_.get(), &count, sizeof count);
}
