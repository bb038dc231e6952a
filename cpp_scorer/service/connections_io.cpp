// What Connections reads and writes: bytes in, whole requests on, responses out.

#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "connections.h"

namespace {

constexpr size_t kRead = 64 * 1024;  // bytes at once
constexpr int kReadsAtOnce = 16;     // before others have their turn
constexpr size_t kAlwaysTaken = 4096;  // bytes of a request that is no load, as one after the service's health

}  // namespace

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
  while (buffered_ + request.text.size() > kMostBuffered && make_room(true)) continue;
  if (buffered_ + request.text.size() > kMostBuffered && request.text.size() > kAlwaysTaken) {
    return leave_early(place, 429, kTooManyBytes);
  }
  hold(connection, request.text.size());
  take_(std::move(request));
}

void Connections::hold(Connection& connection, size_t bytes) {
  buffered_ += bytes - connection.held;
  connection.held = bytes;
}

void Connections::leave_early(Place place, int status, const std::string& error) {
  write_response(place, complain_(status, error), true);
}

void Connections::write_response(Place place, std::string response, bool closes) {
  Connection& connection = place->second;
  connection.out = std::move(response);
  hold(connection, connection.out.size());
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
  hold(connection, 0);
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
