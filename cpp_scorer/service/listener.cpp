#include "listener.h"

#include <netdb.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "errors.h"

namespace {

constexpr int kBacklog = 1024;  // connections that the system has taken and the service not yet

FileDescriptor listen_at(const addrinfo& place) {
  FileDescriptor made(socket(place.ai_family, place.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, place.ai_protocol));
  const int yes = 1;
  setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const bool listens = bind(made.get(), place.ai_addr, place.ai_addrlen) == 0 && listen(made.get(), kBacklog) == 0;
  return listens ? std::move(made) : FileDescriptor();
}

std::string port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char port[NI_MAXSERV] = "";
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  getnameinfo(reinterpret_cast<sockaddr*>(&address), size, nullptr, 0, port, sizeof port, NI_NUMERICSERV);
  return port;
}

}  // namespace

Listener::Listener(const std::string& host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  std::string host = host_and_port.substr(0, colon);
  const std::string port = host_and_port.substr(colon + 1);
  const std::string shown = host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const int failure = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (failure != 0) throw FatalError("--serve " + host_and_port + ": " + gai_strerror(failure));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  for (const addrinfo* place = found; place && !socket.is_open(); place = place->ai_next) {
    socket = listen_at(*place);
  }
  if (!socket.is_open()) {
    throw FatalError("--serve " + host_and_port + ": cannot be listened at (" + std::strerror(errno) + ")");
  }
  address = shown + ":" + port_of(socket.get());
}
