#include "connections.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace {

constexpr Connections::Id kListener = 0;
constexpr std::chrono::milliseconds kTick{100};         // how often times are looked at
constexpr std::chrono::seconds kIdle{75};               // longer than proxies keep theirs
constexpr std::chrono::seconds kDrainingIdle{1};        // for a request that is on its way when draining begins
constexpr std::chrono::seconds kLeave{2};
constexpr size_t kAcceptsAtOnce = 64;
constexpr size_t kSpareDescriptors = 64, kMostConnections = 65536;

/// As many connections as there may be descriptors, less those for files.
size_t raise_descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, kMostConnections + kSpareDescriptors);
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur > 2 * kSpareDescriptors ? limit.rlim_cur - kSpareDescriptors : kSpareDescriptors;
}

}  // namespace

Connections::Connections(FileDescriptor listener, Settings settings, std::function<void(Request)> take,
                         std::function<std::string(int, const std::string&)> complain)
    : settings_(settings),
      take_(std::move(take)),
      complain_(std::move(complain)),
      listener_(std::move(listener)),
      most_connections_(raise_descriptor_limit()) {
  poller_.add(listener_.get(), kListener, EPOLLIN);
}

void Connections::answer(Id connection, std::string response, bool closes) {
  {
    const std::lock_guard lock(mutex_);
    responses_.push_back({connection, std::move(response), closes});
  }
  poller_.wake();
}

void Connections::drain() {
  draining_ = true;
  poller_.wake();
}

size_t Connections::run() {
  Clock::time_point next_tick{};
  while (true) {
    poller_.wait(kTick, [&](Id id, uint32_t events) {
      now_ = Clock::now();
      see_event(id, events);
    });
    now_ = Clock::now();
    if (draining_ && listener_.is_open()) begin_draining();
    deliver();
    if (now_ >= next_tick) {
      end_late_ones();
      next_tick = now_ + kTick;
      if (listener_.is_open()) poller_.change(listener_.get(), kListener, EPOLLIN);
    }
    count_ = connections_.size();
    if (listener_.is_open()) continue;
    const auto is_there = [](const auto& entry) { return entry.second.socket.is_open(); };
    const bool some = std::any_of(connections_.begin(), connections_.end(), is_there);
    if (some && now_ < drain_begin_ + settings_.drain_time) continue;
    return static_cast<size_t>(std::count_if(connections_.begin(), connections_.end(), [&](const auto& entry) {
      return is_there(entry) && (entry.second.state == State::kBusy || entry.second.state == State::kWriting);
    }));
  }
}

/// Connections that the system has taken by now are served too.
void Connections::begin_draining() {
  drain_begin_ = now_;
  accept_some(SIZE_MAX);
  listener_ = FileDescriptor();
}

void Connections::see_event(Id id, uint32_t events) {
  if (id == kListener) {
    if (listener_.is_open()) accept_some(kAcceptsAtOnce);
    return;
  }
  const Place place = connections_.find(id);
  if (place == connections_.end()) return;  // closed by an event before
  if (events & EPOLLIN) {
    read_from(place);
  } else if (events & EPOLLOUT) {
    write_to(place);
  } else if (place->second.state == State::kBusy) {
    place->second.socket = FileDescriptor();  // reset; what it asked for is held until it is answered
  } else {
    close(place);
  }
}

void Connections::accept_some(size_t most) {
  for (size_t accepted = 0; accepted < most; ++accepted) {
    FileDescriptor socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.is_open()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // For want of memory or descriptors it is asked again at the next tick, not at once.
      if (errno != EAGAIN) poller_.change(listener_.get(), kListener, 0);
      return;
    }
    if (connections_.size() >= most_connections_ && !make_room(false)) continue;  // all of them are at work
    const int yes = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    const Id id = next_id_++;
    poller_.add(socket.get(), id, EPOLLIN);
    connections_.emplace(id, Connection{std::move(socket), RequestFraming(settings_.most_body), State::kReading, now_,
                                        {}, {}, 0, 0, false});
  }
}

/// Ends the connection that has kept us waiting longest for its request, so that another can have its place; where
/// bytes are short, also one that is as slow to take its response. Who
/// sends a request at once is never that one for long. Of those that came together it is the one with the lowest number.
bool Connections::make_room(bool of_bytes) {
  Place oldest = connections_.end();
  for (Place place = connections_.begin(); place != connections_.end(); ++place) {
    const Connection& connection = place->second;
    const bool reads = connection.state == State::kReading && !(of_bytes && connection.in.empty());
    if (!reads && !(of_bytes && connection.state == State::kWriting)) continue;
    const auto since = [](Place of) { return std::pair(of->second.since, of->first); };
    if (oldest == connections_.end() || since(place) < since(oldest)) oldest = place;
  }
  if (oldest == connections_.end()) return false;
  if (of_bytes && oldest->second.state == State::kReading) {
    leave_early(oldest, 429, kTooManyBytes);
  } else {
    close(oldest);
  }
  return true;
}

void Connections::set_state(Place place, State state, uint32_t events) {
  place->second.state = state;
  place->second.since = now_;
  poller_.change(place->second.socket.get(), place->first, events);
}

void Connections::close(Place place) {
  buffered_ -= place->second.in.size() + place->second.held;
  connections_.erase(place);
}

void Connections::deliver() {
  std::vector<Response> responses;
  {
    const std::lock_guard lock(mutex_);
    responses.swap(responses_);
  }
  for (Response& response : responses) {
    const Place place = connections_.find(response.connection);
    if (place != connections_.end()) write_response(place, std::move(response.text), response.closes);
  }
}

void Connections::end_late_ones() {
  std::vector<Id> ids;
  for (const auto& [id, connection] : connections_) {
    if (connection.state != State::kBusy) ids.push_back(id);
  }
  for (const Id id : ids) {
    const Place place = connections_.find(id);
    const Connection& connection = place->second;
    const auto waited = now_ - connection.since;
    if (connection.state == State::kLeaving) {
      if (waited > kLeave) close(place);
    } else if (connection.state == State::kReading && connection.in.empty()) {
      const bool leaves = !listener_.is_open() && now_ > drain_begin_ + kDrainingIdle;
      if (leaves || waited > kIdle) close(place);
    } else if (waited > settings_.client_timeout) {
      if (connection.state == State::kWriting) {
        close(place);
      } else {
        leave_early(place, 408, "the request did not come within the time");
      }
    }
  }
}
