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
    const std::string text = "POST / HTTP/1.1\r\nContent-Length: " + std::to_string(kBody) + "\r\n\r\n" +
                             std::string(kBody, ' ');
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = send(socket_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      CHECK(count > 0);
      sent += static_cast<size_t>(count);
    }
  }

  std::string answer(size_t size) {
    std::string text(size, ' ');
    CHECK_EQUAL(recv(socket_.get(), text.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
    return text;
  }

 private:
  FileDescriptor socket_;
};

/// 256 MiB are 31 requests of 8 MiB and their heads, whichever of them are answered, over and over.
void requests_that_wait_are_counted_until_they_are_answered() {
  Listener listener("127.0.0.1:0");
  std::mutex mutex;
  std::vector<Connections::Id> taken;
  const auto take = [&](Connections::Request request) {
    const std::lock_guard lock(mutex);
    taken.push_back(request.connection);
  };
  Connections connections(
      std::move(listener.socket), {kBody, std::chrono::seconds(20), std::chrono::seconds(5)}, take,
      [](int status, const std::string&) { return std::to_string(status); });
  std::thread serving([&] { CHECK_EQUAL(connections.run(), 0u); });
  for (int round = 0; round < 3; ++round) {
    std::vector<Client> clients;
    for (int client = 0; client < 31; ++client) clients.emplace_back(listener.address).ask();
    Client late(listener.address);
    late.ask();
    CHECK_EQUAL(late.answer(3), "429");
    const std::lock_guard lock(mutex);
    CHECK_EQUAL(taken.size(), 31u);
    for (const auto id : taken) connections.answer(id, "yes", true);
    for (Client& client : clients) CHECK_EQUAL(client.answer(3), "yes");
    taken.clear();
  }
  connections.drain();
  serving.join();
}

}  // namespace

int main() { requests_that_wait_are_counted_until_they_are_answered(); }
