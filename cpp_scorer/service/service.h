#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "bearer_token.h"
#include "connections.h"
#include "dispatcher.h"
#include "engine.h"
#include "metrics.h"
#include "router.h"
#include "task_pool.h"
#include "turns.h"

struct ServiceOptions {
  std::string address;              // HOST:PORT
  std::string token_file;
  int workers = 1;                  // runs at once
  size_t queue_rows = 1024;         // rows that wait for a worker
  size_t most_rows = 512;           // of a request
  size_t most_body = 4 * 1024 * 1024;  // bytes
  std::chrono::seconds deadline{30}, client_timeout{20}, drain_time{30};
};

/// The scorer behind HTTP.
class Service {
 public:
  /// Listens at once. Throws FatalError where it cannot.
  Service(const ServiceOptions& options, const EngineOptions& engine);
  ~Service();

  /// Loads the model, checks it, and serves until the first signal and then until all is answered. Throws FatalError
  /// where the model cannot be used. Ends the program itself, with 0, where only what nobody asks for any more is at
  /// work; with 1 where the time was up before all was answered.
  void run();

 private:
  using Clock = std::chrono::steady_clock;

  void add_routes();
  void load();
  void take(Connections::Request request);
  void answer(const Connections::Request& request);
  void finish(const Connections::Request& request, std::string response, bool closes);

  HttpResponse guard(const HttpRequest& request) const;
  HttpResponse score(const HttpRequest& request);
  HttpResponse complete(const HttpRequest& request);
  HttpResponse models() const;
  HttpResponse metrics() const;
  HttpResponse is_ready() const;

  const ServiceOptions options_;
  const EngineOptions engine_options_;
  const BearerToken token_;
  Metrics metrics_;
  Router router_;
  std::string address_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::string model_sha256_, failure_;
  std::atomic<bool> loaded_ = false;  // failure_ may be read
  std::atomic<bool> ready_ = false;   // and, of what stands above, the rest too
  Turns parsing_;  // parsing and writing JSON take a processor and memory, waiting for the model takes neither
  std::unique_ptr<Connections> connections_;
  // Requests that score wait in one pool, so that questions after health and figures never wait for a model.
  std::unique_ptr<TaskPool> scoring_, others_;
};
