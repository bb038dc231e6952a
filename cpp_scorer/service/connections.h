#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "file_descriptor.h"
#include "framing.h"
#include "poller.h"

/// All connections of the service, on one thread: a client that is slow, or says nothing, costs a descriptor and a
/// buffer, never a thread. Whole requests go out, whole responses come back.
class Connections {
 public:
  using Clock = std::chrono::steady_clock;
  using Id = uint64_t;

  struct Request {
    Id connection;
    std::string method, authorization, text;  // the text is RequestFraming's
    bool closes;  // whether the connection ends with it
    Clock::time_point arrived;
  };

  struct Settings {
    size_t most_body;                      // bytes
    std::chrono::seconds client_timeout;   // for the whole of a request to come, or of a response to leave
    std::chrono::milliseconds drain_time;  // for requests at work, once drain() was called
  };

  /// `take` gets every whole request, and must not wait; `complain` makes the response to one that is at fault.
  /// `listener` is a socket that listens.
  Connections(FileDescriptor listener, Settings settings, std::function<void(Request)> take,
              std::function<std::string(int status, const std::string& error)> complain);

  /// Serves until it is drained. Returns how many requests are left without a response, since the time was up.
  size_t run();

  /// The response to a connection's request; any thread may give it. One whose client has gone is dropped.
  void answer(Id connection, std::string response, bool closes);

  /// Takes no more connections, lets those end that say nothing, and the others with their response. Any thread may
  /// call it.
  void drain();
  bool is_draining() const { return draining_; }

  size_t count() const { return count_; }

 private:
  enum class State { kReading, kBusy, kWriting, kLeaving };  // kLeaving: all is said, the client's end is awaited

  struct Connection {
    FileDescriptor socket;
    RequestFraming framing;
    State state = State::kReading;
    Clock::time_point since;  // of the state; of a request that is being read, from its first byte
    std::string in, out;
    size_t held = 0;  // bytes that were taken from `in` to be answered, then of the response
    size_t sent = 0;
    bool closes = false;
  };
  using Place = std::unordered_map<Id, Connection>::iterator;

  static constexpr size_t kMostBuffered = 256 << 20;  // bytes, of all connections together
  static constexpr const char* kTooManyBytes = "too many bytes wait already; ask again in a second";

  void accept_some(size_t most);
  void hold(Connection& connection, size_t bytes);
  bool make_room(bool of_bytes);
  void see_event(Id id, uint32_t events);
  void read_from(Place place);
  void read_request(Place place);
  void leave_early(Place place, int status, const std::string& error);
  void write_response(Place place, std::string response, bool closes);
  void write_to(Place place);
  void set_state(Place place, State state, uint32_t events);
  void close(Place place);
  void deliver();
  void begin_draining();
  void end_late_ones();

  const Settings settings_;
  const std::function<void(Request)> take_;
  const std::function<std::string(int, const std::string&)> complain_;
  FileDescriptor listener_;
  Poller poller_;
  size_t most_connections_;
  std::unordered_map<Id, Connection> connections_;
  Id next_id_ = 1;
  size_t buffered_ = 0;  // bytes of requests that are being read or answered, and of responses
  Clock::time_point now_, drain_begin_;
  std::atomic<size_t> count_ = 0;
  std::atomic<bool> draining_ = false;

  struct Response {
    Id connection;
    std::string text;
    bool closes;
  };
  std::mutex mutex_;  // guards what follows
  std::vector<Response> responses_;
};
