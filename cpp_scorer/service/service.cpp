#include "service.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <new>
#include <set>
#include <thread>
#include <utility>

#include "completion.h"
#include "errors.h"
#include "json.h"
#include "listener.h"
#include "page.h"
#include "score_text.h"
#include "sha256.h"
#include "signals.h"
#include "threads.h"
#include "token_rows.h"

namespace {

// Golden questions whose log-probs are reproduced before the service is ready, which is to be soon; --check does all.
constexpr size_t kGoldenBeforeReady = 1;
constexpr size_t kMostPromptTokens = 128 * 1024;  // of a request; its response takes half a kilobyte for each
constexpr size_t kScoringThreads = 64, kMostScoring = 256, kOtherThreads = 2, kMostOthers = 1024;

Connections* to_drain = nullptr;  // by a signal

const std::set<std::string> kOpenPaths{"/", "/healthz", "/readyz"};  // without a token
const std::set<std::string> kPaths{"/",           "/healthz",  "/readyz",        "/metrics",
                                   "/v1/models", "/v1/score", "/v1/completions"};

HttpResponse text(int status, const char* type, std::string body) { return {status, type, std::move(body), {}}; }

HttpResponse not_scored(Dispatcher::Outcome outcome) {
  if (outcome == Dispatcher::Outcome::kFull) return error_of(429, "too many rows wait already; ask again in a second");
  return error_of(504, "the answer was not there within the deadline");
}

/// The path of a request line, as a metric's label: of those that exist, else "other".
std::string path_label(const std::string& request) {
  const size_t begin = request.find(' ') + 1;
  const std::string path = request.substr(begin, request.find_first_of(" ?", begin) - begin);
  return kPaths.count(path) > 0 ? path : "other";
}

}  // namespace

Service::Service(const ServiceOptions& options, const EngineOptions& engine)
    : options_(options), engine_options_(engine), token_(options.token_file), parsing_(usable_cores()) {
  Listener listener(options.address);
  address_ = listener.address;
  add_routes();
  connections_ = std::make_unique<Connections>(
      std::move(listener.socket),
      Connections::Settings{options.most_body, options.client_timeout, options.drain_time},
      [this](Connections::Request request) { take(std::move(request)); },
      [this](int status, const std::string& error) {
        metrics_.count_request("other", status, 0);
        return Router::error_response(status, error, true);
      });
  scoring_ = std::make_unique<TaskPool>(kScoringThreads, kMostScoring);
  others_ = std::make_unique<TaskPool>(kOtherThreads, kMostOthers);
  to_drain = connections_.get();
  at_first_signal([] { to_drain->drain(); });
}

Service::~Service() { at_first_signal(nullptr); }

void Service::run() {
  std::cerr << "listening at http://" << address_ << std::endl;
  std::thread loading([this] { load(); });
  size_t unanswered = 0;
  try {
    unanswered = connections_->run();
  } catch (const std::bad_alloc&) {
    std::cerr << "error: " << kOutOfMemory << std::endl;
    std::_Exit(1);  // what others compute has nobody left to send it
  }
  if (unanswered > 0) {
    std::cerr << "error: " << unanswered << " requests were not answered within --drain " << options_.drain_time.count()
              << std::endl;
    std::_Exit(1);  // their runs are not waited for
  }
  // Nobody is left who waits for a model that is still loaded, or for what clients asked that have gone since.
  if (!loaded_ || (failure_.empty() && !(scoring_->is_idle() && others_->is_idle()))) std::_Exit(0);
  loading.join();
  if (!failure_.empty()) throw FatalError(failure_);
}

void Service::load() {
  try {
    engine_ = std::make_unique<Engine>(engine_options_);
    model_sha256_ = sha256_of_file(engine_options_.model);
    std::cerr << engine_->check(kGoldenBeforeReady);
    dispatcher_ = std::make_unique<Dispatcher>(*engine_, options_.workers, options_.queue_rows,
                                               [this](Dispatcher::Batched batched) {
                                                 metrics_.count_batch(batched.rows, batched.tokens);
                                               });
    ready_ = true;
    std::cerr << "ready" << std::endl;
  } catch (const std::bad_alloc&) {
    failure_ = kOutOfMemory;
  } catch (const std::exception& error) {
    failure_ = error.what();
  }
  loaded_ = true;
  if (!failure_.empty()) connections_->drain();
}

void Service::take(Connections::Request request) {
  // Whoever has no token does not wait, and takes no place, among those who are scored.
  const bool is_scored = request.method == "POST" && (!token_.is_set() || token_.admits(request.authorization));
  TaskPool& pool = is_scored ? *scoring_ : *others_;
  const auto shared = std::make_shared<const Connections::Request>(std::move(request));
  if (pool.put([this, shared] { answer(*shared); })) return;
  // The response to a HEAD has no body, this one has, so that nothing may follow it.
  finish(*shared, Router::error_response(429, "too many requests wait already; ask again in a second", true), true);
}

void Service::answer(const Connections::Request& request) try {
  const bool closes = request.closes || connections_->is_draining();
  finish(request, router_.answer(request.text, request.authorization, request.arrived, closes), closes);
} catch (const std::bad_alloc&) {
  finish(request, Router::error_response(503, kOutOfMemory, true), true);
}

void Service::finish(const Connections::Request& request, std::string response, bool closes) {
  constexpr size_t status_at = 9;  // "HTTP/1.1 200 OK"
  const double seconds = std::chrono::duration<double>(Clock::now() - request.arrived).count();
  metrics_.count_request(path_label(request.text), std::atoi(response.c_str() + status_at), seconds);
  connections_->answer(request.connection, std::move(response), closes);
}

void Service::add_routes() {
  router_.set_guard([this](const HttpRequest& request) { return guard(request); });
  router_.add("GET", "/healthz", [](const HttpRequest&) { return text(200, "text/plain", "alive\n"); });
  router_.add("GET", "/readyz", [this](const HttpRequest&) { return is_ready(); });
  router_.add("GET", "/metrics", [this](const HttpRequest&) { return metrics(); });
  router_.add("GET", "/v1/models", [this](const HttpRequest&) { return models(); });
  router_.add("POST", "/v1/score", [this](const HttpRequest& request) { return score(request); });
  router_.add("POST", "/v1/completions", [this](const HttpRequest& request) { return complete(request); });
  router_.add("GET", "/", [](const HttpRequest&) {
    HttpResponse response = text(200, "text/html; charset=utf-8", kPage);
    response.headers.emplace_back("Content-Security-Policy",
                                  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    return response;
  });
}

HttpResponse Service::guard(const HttpRequest& request) const {
  if (token_.is_set() && kOpenPaths.count(request.path) == 0 && !token_.admits(request.authorization)) {
    return error_of(401, "the header Authorization: Bearer TOKEN is missing or wrong");
  }
  if (!ready_ && request.path.rfind("/v1/", 0) == 0) return error_of(503, "the model is being loaded");
  return {};
}

HttpResponse Service::is_ready() const {
  if (connections_->is_draining()) return error_of(503, "the service is ending");
  return ready_ ? text(200, "text/plain", "ready\n") : error_of(503, "the model is being loaded");
}

HttpResponse Service::metrics() const {
  const Metrics::Now now{ready_ ? dispatcher_->waiting_rows() : 0, connections_->count(),
                         ready_ && !connections_->is_draining()};
  const std::string score = name_of(engine_options_.score);
  const std::string labels = ready_ ? "sha256=\"" + model_sha256_ + "\",score=\"" + score + "\"" : "";
  return text(200, "text/plain; version=0.0.4", metrics_.text(now, labels));
}

HttpResponse Service::models() const {
  const auto& metadata = engine_->info().metadata;
  const auto quoted = [&](const char* key) { return json_quote(metadata.at(key)); };
  return text(200, "application/json",
              "{\"object\": \"list\", \"data\": [{\"id\": \"" + model_sha256_ + "\", \"object\": \"model\", "
              "\"created\": 0, \"owned_by\": " + quoted("base_model") + ", \"quantization\": " + quoted("quantization") +
              ", \"max_length\": " + std::to_string(engine_->info().prompt.max_length) + "}]}\n");
}

HttpResponse Service::score(const HttpRequest& request) {
  std::vector<PreparedQuestion> questions;
  {
    const Turns::Turn turn(parsing_);
    const auto rows = rows_of(request.body, engine_options_.longest_line, options_.most_rows + 1);
    if (rows.empty()) return error_of(400, "there are no questions in the body: send JSON lines, or one JSON object");
    if (rows.size() > options_.most_rows) {
      return error_of(422, "more than " + std::to_string(options_.most_rows) + " rows (--max-rows)");
    }
    questions = prepare(*engine_, rows, 0, rows.size());
  }
  const size_t count = questions.size();
  const auto scored = dispatcher_->score(std::move(questions), request.arrived + options_.deadline);
  if (scored.outcome != Dispatcher::Outcome::kDone) return not_scored(scored.outcome);
  const auto errors = std::count_if(scored.answers.begin(), scored.answers.end(),
                                    [](const Answer& answer) { return !answer.error.empty(); });
  metrics_.count_rows(count, static_cast<size_t>(errors));
  return text(200, "application/x-ndjson", text_of(scored.answers));
}

HttpResponse Service::complete(const HttpRequest& request) try {
  Completion completion;
  std::vector<std::vector<int64_t>> sequences;
  const PromptConfig& contract = engine_->encoder().config();
  const int64_t max_positions = engine_->info().max_positions;
  size_t num_tokens = 0;
  {
    const Turns::Turn turn(parsing_);
    const auto encode = [&](std::string_view prompt) {
      std::vector<int64_t> ids = engine_->tokenizer().encode(prompt);
      if (contract.start_token_id >= 0) ids.insert(ids.begin(), contract.start_token_id);
      return ids;
    };
    completion = Completion::read(request.body, encode, options_.most_rows);
    for (const auto& prompt : completion.prompts) {
      sequences.push_back(prompt.ids);
      num_tokens += prompt.ids.size();
      // On a GPU the graph would answer for these too, with numbers that mean nothing.
      const int64_t highest = *std::max_element(prompt.ids.begin(), prompt.ids.end());
      if (highest >= engine_->tokenizer().end_of_ids()) {
        throw field_error("prompt", std::to_string(highest) + " is no token's id");
      }
      if (static_cast<int64_t>(prompt.ids.size()) > engine_options_.limits.tokens) {
        return error_of(422, "a prompt has more than " + std::to_string(engine_options_.limits.tokens) +
                                 " tokens (--max-row-tokens)");
      }
      if (max_positions >= 0 && static_cast<int64_t>(prompt.ids.size()) > max_positions) {
        return error_of(422, "a prompt has more than the " + std::to_string(max_positions) + " tokens that the model takes");
      }
    }
  }
  if (num_tokens > kMostPromptTokens) {
    return error_of(422, "the prompts have more than " + std::to_string(kMostPromptTokens) + " tokens together");
  }
  const auto logprobs = token_logprobs(sequences, engine_options_.limits.tokens, *dispatcher_,
                                       request.arrived + options_.deadline);
  if (logprobs.outcome != Dispatcher::Outcome::kDone) return not_scored(logprobs.outcome);
  metrics_.count_rows(sequences.size(), 0);
  const Turns::Turn turn(parsing_);
  return text(200, "application/json", completion.response(logprobs.of_sequences, model_sha256_));
} catch (const RowError& error) {
  return error_of(422, error.what());
}
