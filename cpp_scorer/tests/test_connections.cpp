// Real sockets against the service's connections: what they hold is bounded, and let go once it is answered.

#include "connections.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <thread>

#include "check.h"
#include "listener.h"

namespace {

constexpr size_t kBody = 8 << 20;

class Client {
 public:
  explicit Client(const std::string& address) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQUAL(connect(socket_.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  }

  void ask() {
    say("POST / HTTP/1.1\r\nContent-Length: " + std::to_string(kBody) + "\r\n\r\n" + std::string(kBody, ' '));
  }

  void say(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = send(socket_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      CHECK(count > 0);
      sent += static_cast<size_t>(count);
    }
  }

  void reset() {
    const linger at_once{1, 0};
    CHECK_EQUAL(setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    socket_ = FileDescriptor();
  }

  std::string answer(size_t size) {
    std::string text(size, ' ');
    CHECK_EQUAL(recv(socket_.get(), text.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
    return text;
  }

 private:
  FileDescriptor socket_;
};

/// Connections of which each request waits until `answer_all`.
class Serving {
 public:
  Serving()
      : listener_("127.0.0.1:0"),
        address(listener_.address),
        connections_(
            std::move(listener_.socket), {kBody, std::chrono::seconds(20), std::chrono::seconds(5)},
            [this](Connections::Request request) {
              const std::lock_guard lock(mutex_);
              taken_.push_back(request.connection);
            },
            [](int status, const std::string&) { return std::to_string(status); }),
        thread_([this] { CHECK_EQUAL(connections_.run(), 0u); }) {}

  ~Serving() {
    connections_.drain();
    thread_.join();
  }

  void wait_for(size_t count) {
    for (int tenths = 0; tenths < 200; ++tenths) {
      {
        const std::lock_guard lock(mutex_);
        if (taken_.size() == count) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    CHECK_EQUAL(taken_.size(), count);
  }

  void answer_all(const std::string& text) {
    const std::lock_guard lock(mutex_);
    for (const auto id : taken_) connections_.answer(id, text, true);
    taken_.clear();
  }

 private:
  Listener listener_;

 public:
  const std::string address;

 private:
  std::mutex mutex_;
  std::vector<Connections::Id> taken_;
  Connections connections_;
  std::thread thread_;
};

/// 256 MiB are 31 requests of 8 MiB and their heads, whichever of them are answered, over and over.
void requests_that_wait_are_counted_until_they_are_answered() {
  Serving serving;
  for (const bool gone : {false, true, false}) {
    std::vector<Client> clients;
    for (int client = 0; client < 31; ++client) clients.emplace_back(serving.address).ask();
    serving.wait_for(31);
    if (gone) {  // who leaves does not make what is being answered any smaller
      for (Client& client : clients) client.reset();
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    Client late(serving.address), small(serving.address);
    late.ask();
    CHECK_EQUAL(late.answer(3), "429");
    small.say("GET / HTTP/1.1\r\n\r\n");
    serving.wait_for(32);
    serving.answer_all("yes");
    CHECK_EQUAL(small.answer(3), "yes");
    for (Client& client : clients) {
      if (!gone) CHECK_EQUAL(client.answer(3), "yes");
    }
  }
}

/// Responses that nobody takes: these make room for a request, not the other way round.
void who_does_not_read_makes_room() {
  Serving serving;
  std::vector<Client> slow;
  for (int client = 0; client < 3; ++client) slow.emplace_back(serving.address).say("GET / HTTP/1.1\r\n\r\n");
  serving.wait_for(3);
  serving.answer_all(std::string(84 << 20, 'x'));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  Client next(serving.address);
  next.ask();
  serving.wait_for(1);
  serving.answer_all("yes");
  CHECK_EQUAL(next.answer(3), "yes");
}

}  // namespace

int main() {
  requests_that_wait_are_counted_until_they_are_answered();
  who_does_not_read_makes_room();
}
