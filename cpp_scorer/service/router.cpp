#include "router.h"

#include <httplib.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <iostream>
#include <set>

#include "json.h"

namespace {

// cpp-httplib hands nothing through to a handler, and decodes "%2F" in the values of headers.
thread_local std::chrono::steady_clock::time_point arrived_now;
thread_local std::string authorization_now;

/// A request in memory, and its response.
class TextStream : public httplib::Stream {
 public:
  explicit TextStream(const std::string& request) : request_(request) {}

  bool is_readable() const override { return at_ < request_.size(); }
  bool is_writable() const override { return true; }
  ssize_t read(char* bytes, size_t size) override {
    const size_t count = std::min(size, request_.size() - at_);
    std::memcpy(bytes, request_.data() + at_, count);
    at_ += count;
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* bytes, size_t size) override {
    response.append(bytes, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return 0; }

  std::string response;

 private:
  const std::string& request_;
  size_t at_ = 0;
};

void put(const HttpResponse& from, httplib::Response& to) {
  to.status = from.status;
  to.set_content(from.body, from.type);
  for (const auto& [name, value] : from.headers) to.set_header(name, value);
  to.set_header("X-Content-Type-Options", "nosniff");
  to.set_header("Cache-Control", "no-store");
}

HttpRequest read(const httplib::Request& request) {
  return {request.method, request.path, authorization_now, request.body, arrived_now};
}

}  // namespace

class Router::Server : public httplib::Server {
 public:
  Server() {
    set_keep_alive_max_count(1'000'000);
    set_keep_alive_timeout(60);
    set_error_handler([this](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return httplib::Server::HandlerResponse::Unhandled;
      const bool known = paths.count(request.path) > 0;
      if (response.status == 404 && known) {
        put(error_of(405, request.path + " does not take " + request.method), response);
      } else {
        const char* what = response.status == 404 ? "there is nothing at this path" : "the request is broken";
        put(error_of(response.status, what), response);
      }
      return httplib::Server::HandlerResponse::Handled;
    });
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      const HttpResponse found = guard ? guard(read(request)) : HttpResponse();
      if (found.status == 200) return httplib::Server::HandlerResponse::Unhandled;
      put(found, response);
      return httplib::Server::HandlerResponse::Handled;
    });
    set_exception_handler([](const httplib::Request& request, httplib::Response& response, std::exception_ptr thrown) {
      put(error_of(500, "the request could not be answered; the service's log says why"), response);
      try {
        std::rethrow_exception(thrown);
      } catch (const std::exception& error) {
        std::cerr << "error: " << request.path << ": " << error.what() << std::endl;
      }
    });
  }

  std::string answer(const std::string& request, bool closes) {
    TextStream stream(request);
    bool closed = false;
    process_request(stream, "", 0, "", 0, closes, closed, nullptr);
    return std::move(stream.response);
  }

  std::set<std::string> paths;
  Router::Handler guard;
};

Router::Router() : server_(std::make_unique<Server>()) {}

Router::~Router() = default;

void Router::add(const std::string& method, const std::string& path, Handler handler) {
  server_->paths.insert(path);
  const auto call = [handler = std::move(handler)](const httplib::Request& request, httplib::Response& response) {
    put(handler(read(request)), response);
  };
  if (method == "GET") {
    server_->Get(path, call);
  } else {
    server_->Post(path, call);
  }
}

void Router::set_guard(Handler guard) { server_->guard = std::move(guard); }

std::string Router::answer(const std::string& request, const std::string& authorization,
                           std::chrono::steady_clock::time_point arrived, bool closes) const {
  arrived_now = arrived;
  authorization_now = authorization;
  return server_->answer(request, closes);
}

std::string Router::error_response(int status, const std::string& error, bool closes) {
  const HttpResponse response = error_of(status, error);
  std::string text = "HTTP/1.1 " + std::to_string(status) + " " + httplib::status_message(status) + "\r\n";
  for (const auto& [name, value] : response.headers) text += name + ": " + value + "\r\n";
  if (closes) text += "Connection: close\r\n";
  return text + "Content-Type: " + response.type + "\r\nContent-Length: " + std::to_string(response.body.size()) +
         "\r\n\r\n" + response.body;
}

HttpResponse error_of(int status, const std::string& message) {
  const char* type = status == 401 ? "authentication_error" : status < 500 ? "invalid_request_error" : "server_error";
  HttpResponse response{status, "application/json", "", {}};
  response.body = "{\"error\": {\"message\": " + json_quote(message) + ", \"type\": \"" + type + "\", \"code\": " +
                  std::to_string(status) + "}}\n";
  if (status == 429 || status == 503) response.headers.emplace_back("Retry-After", "1");
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}
