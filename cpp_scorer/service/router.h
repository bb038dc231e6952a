#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

struct HttpRequest {
  std::string method, path, authorization, body;
  std::chrono::steady_clock::time_point arrived;
};

struct HttpResponse {
  int status = 200;
  std::string type, body;
  std::vector<std::pair<std::string, std::string>> headers{};
};

/// From a request's text to a response's: parses, finds the handler, writes. The only part that knows cpp-httplib,
/// whose own sockets and threads are not used: there a connection holds a thread.
class Router {
 public:
  using Handler = std::function<HttpResponse(const HttpRequest&)>;

  Router();
  ~Router();

  /// `method` is GET, which answers HEAD too, or POST. All are added before the first answer.
  void add(const std::string& method, const std::string& path, Handler handler);

  /// `guard` is asked before any handler; a response of its own stands for the handler's, status 200 for none.
  void set_guard(Handler guard);

  /// The whole response to a request as RequestFraming gives it. May be called from several threads.
  std::string answer(const std::string& request, const std::string& authorization,
                     std::chrono::steady_clock::time_point arrived, bool closes) const;

  /// The whole response to a request that reaches no handler.
  static std::string error_response(int status, const std::string& error, bool closes);

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

/// {"error": {"message": ..., "type": ..., "code": ...}}, as OpenAI's interface has it.
HttpResponse error_of(int status, const std::string& message);
