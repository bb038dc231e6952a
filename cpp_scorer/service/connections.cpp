#include "connections.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace {

constexpr Connections::Id kListener = 0;
constexpr std::chrono::milliseconds kTick{100};         // how often times are looked at
constexpr std::chrono::seconds kIdle{75};               // longer than proxies keep theirs
constexpr std::chrono::seconds kDrainingIdle{1};        // for a request that is on its way when draining begins
constexpr std::chrono::seconds kLeave{2};
constexpr size_t kMostBuffered = 256 << 20;             // bytes, of all connections together
constexpr size_t kRead = 64 * 1024;                     // bytes at once
constexpr int kReadsAtOnce = 16;                        // before others have their turn
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
    if (listener_.is_open() || (!connections_.empty() && now_ < drain_begin_ + settings_.drain_time)) continue;
    return static_cast<size_t>(std::count_if(connections_.begin(), connections_.end(), [](const auto& entry) {
      return entry.second.state == State::kBusy || entry.second.state == State::kWriting;
    }));
  }
}

/// Connections that the system has taken by now are served too.
void Connections::begin_draining() {
  drain_begin_ = now_;
  accept_all();
  listener_ = FileDescriptor();
}

void Connections::see_event(Id id, uint32_t events) {
  if (id == kListener) {
    if (listener_.is_open()) accept_all();
    return;
  }
  const Place place = connections_.find(id);
  if (place == connections_.end()) return;  // closed by an event before
  if (events & EPOLLIN) {
    read_from(place);
  } else if (events & EPOLLOUT) {
    write_to(place);
  } else {
    close(place);  // reset
  }
}

void Connections::accept_all() {
  while (true) {
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
                                        {}, {}, 0, false});
  }
}

/// Closes the connection that has kept us waiting longest for its request, so that another can have its place. Who
/// sends a request at once is never that one for long. Of those that came together it is the one with the lowest number.
bool Connections::make_room(bool of_bytes) {
  Place oldest = connections_.end();
  for (Place place = connections_.begin(); place != connections_.end(); ++place) {
    if (place->second.state != State::kReading || (of_bytes && place->second.in.empty())) continue;
    const auto since = [](Place of) { return std::pair(of->second.since, of->first); };
    if (oldest == connections_.end() || since(place) < since(oldest)) oldest = place;
  }
  if (oldest == connections_.end()) return false;
  close(oldest);
  return true;
}

void Connections::read_from(Place place) {
  const Id id = place->first;
  std::array<char, kRead> bytes;
  for (int reads = 0; reads < kReadsAtOnce; ++reads) {
    Connection& connection = place->second;
    const ssize_t got = recv(connection.socket.get(), bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      // A client may have closed its own half and still wait for what it did wrong.
      if (got == 0 && connection.state == State::kReading && !connection.in.empty()) {
        return leave_early(place, 400, "the request ends before its end");
      }
      return close(place);
    }
    if (connection.state == State::kLeaving) continue;
    if (connection.in.empty()) connection.since = now_;
    connection.in.append(bytes.data(), static_cast<size_t>(got));
    buffered_ += static_cast<size_t>(got);
    read_request(place);
    while (buffered_ > kMostBuffered && make_room(true)) continue;
    place = connections_.find(id);
    if (place == connections_.end() || place->second.state != State::kReading) return;
  }
}

/// Hands on the request at the beginning of what was read, if it is whole.
void Connections::read_request(Place place) {
  Connection& connection = place->second;
  const auto state = connection.framing.see(connection.in);
  if (state == RequestFraming::State::kBad) {
    return leave_early(place, connection.framing.status(), connection.framing.error());
  }
  if (state == RequestFraming::State::kMore) {
    constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    if (connection.framing.take_expectation()) send(connection.socket.get(), go_on.data(), go_on.size(), MSG_NOSIGNAL);
    return;
  }
  Request request{place->first, std::string(connection.framing.method()),
                  std::string(connection.framing.authorization()), connection.framing.request(),
                  connection.framing.closes(), now_};
  const size_t size = connection.framing.size();
  connection.framing = RequestFraming(settings_.most_body);
  std::string(connection.in, size).swap(connection.in);
  buffered_ -= size;
  set_state(place, State::kBusy, 0);
  take_(std::move(request));
}

void Connections::leave_early(Place place, int status, const std::string& error) {
  write_response(place, complain_(status, error), true);
}

void Connections::write_response(Place place, std::string response, bool closes) {
  Connection& connection = place->second;
  connection.out = std::move(response);
  connection.sent = 0;
  connection.closes = closes;
  connection.state = State::kWriting;
  connection.since = now_;
  write_to(place);
}

void Connections::write_to(Place place) {
  Connection& connection = place->second;
  while (connection.sent < connection.out.size()) {
    const ssize_t count = send(connection.socket.get(), connection.out.data() + connection.sent,
                               connection.out.size() - connection.sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return poller_.change(connection.socket.get(), place->first, EPOLLOUT);
    if (count < 0) return close(place);
    connection.sent += static_cast<size_t>(count);
  }
  std::string().swap(connection.out);
  if (connection.closes) {
    // Closed at once, with bytes of the client unread, the system would take the response back.
    shutdown(connection.socket.get(), SHUT_WR);
    buffered_ -= connection.in.size();
    std::string().swap(connection.in);
    return set_state(place, State::kLeaving, EPOLLIN);
  }
  set_state(place, State::kReading, EPOLLIN);
  if (!connection.in.empty()) read_request(place);  // sent before the response to the last was there
}

void Connections::set_state(Place place, State state, uint32_t events) {
  place->second.state = state;
  place->second.since = now_;
  poller_.change(place->second.socket.get(), place->first, events);
}

void Connections::close(Place place) {
  buffered_ -= place->second.in.size();
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
