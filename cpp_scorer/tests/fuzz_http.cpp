// Fuzz target over the HTTP entry: whatever the bytes of a connection are, and however they are cut, they are requests,
// of which each gets one response, or one clear error.
//   g++:    fuzz_http SECONDS [SEED], random mutations of the requests below
//   clang:  -DLIBFUZZER -fsanitize=fuzzer

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "bearer_token.h"
#include "completion.h"
#include "errors.h"
#include "framing.h"
#include "fuzz_main.h"
#include "json.h"
#include "router.h"
#include "score_text.h"
#include "token_rows.h"

namespace {

constexpr size_t kMostBody = 4096, kMostRows = 64;

HttpResponse score(const HttpRequest& request) {
  std::string lines;
  for (const Line& line : rows_of(request.body, kMostBody, kMostRows)) {
    try {
      lines += JsonRow(line.text).id().value_or("none") + "\n";
    } catch (const RowError& error) {
      lines += json_quote(error.what()) + "\n";
    }
  }
  return {200, "application/x-ndjson", lines, {}};
}

/// Every log-prob is the token's own number, so that each must come back at its place.
HttpResponse complete(const HttpRequest& request) try {
  const auto encode = [](std::string_view text) { return std::vector<int64_t>(text.begin(), text.end()); };
  const Completion completion = Completion::read(request.body, encode, kMostRows);
  std::vector<std::vector<int64_t>> sequences;
  for (const auto& prompt : completion.prompts) sequences.push_back(prompt.ids);
  std::vector<std::vector<float>> logprobs(sequences.size());
  for (const TokenRow& row : token_rows(sequences, 100)) {
    const PackedBatch batch = row.pack();
    const std::vector<float> values(batch.target_ids.begin(), batch.target_ids.end());
    for (size_t rest = 0; rest < row.rests.size(); ++rest) {
      logprobs[row.sequences[rest]] = row.logprobs_of(rest, values);
    }
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    const std::vector<float> expected(sequences[i].begin() + 1, sequences[i].end());
    if (logprobs[i] != expected) __builtin_trap();
  }
  return {200, "application/json", completion.response(logprobs, "model"), {}};
} catch (const RowError& error) {
  return error_of(422, error.what());
}

const Router& router() {
  static const Router* const made = [] {
    auto* const router = new Router;
    router->add("GET", "/", [](const HttpRequest&) { return HttpResponse{200, "text/html", "<p>", {}}; });
    router->add("POST", "/v1/score", score);
    router->add("POST", "/v1/completions", complete);
    router->set_guard([](const HttpRequest& request) {
      static const BearerToken token("");
      return token.admits(request.authorization) ? error_of(500, "no token is set") : HttpResponse();
    });
    return router;
  }();
  return *made;
}

/// A response must say how long its body is, and hold it.
void check_response(const std::string& response, bool has_body) {
  const size_t head = response.find("\r\n\r\n"), length = response.find("Content-Length: ");
  if (response.rfind("HTTP/1.1 ", 0) != 0 || head == response.npos || length > head) __builtin_trap();
  const size_t size = std::stoul(response.substr(length + 16));
  if (has_body && response.size() != head + 4 + size) __builtin_trap();
}

}  // namespace

/// The first byte says how long the pieces are in which the rest comes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t piece = 1 + data[0];
  while (!bytes.empty()) {
    RequestFraming whole(kMostBody), cut(kMostBody);
    const auto state = whole.see(bytes);
    auto cut_state = RequestFraming::State::kMore;
    for (size_t end = piece; cut_state == RequestFraming::State::kMore; end += piece) {
      cut_state = cut.see(bytes.substr(0, std::min(end, bytes.size())));
      if (end >= bytes.size()) break;
    }
    if (cut_state != state || cut.status() != whole.status()) __builtin_trap();
    if (state == RequestFraming::State::kBad) {
      check_response(Router::error_response(whole.status(), whole.error(), true), true);
      return 0;
    }
    if (state == RequestFraming::State::kMore) return 0;
    if (whole.size() == 0 || whole.size() > bytes.size() || cut.request() != whole.request()) __builtin_trap();
    const std::string authorization(whole.authorization());
    check_response(router().answer(whole.request(), authorization, {}, whole.closes()), whole.method() != "HEAD");
    bytes.remove_prefix(whole.size());
  }
  return 0;
}

const std::vector<std::string>& fuzz_seeds() {
  static const std::vector<std::string> seeds{
      "\x05GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\nHEAD / HTTP/1.0\r\n\r\n",
      "\x30POST /v1/score HTTP/1.1\r\nContent-Length: 25\r\nExpect: 100-continue\r\n\r\n{\"id\": 1}\n{\"id\": \"b\"}\n\n {}",
      "\x11POST /v1/score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n{\"id\"\r\n4\r\n: 1}\r\n0\r\nX: y\r\n\r\n",
      "\x05POST /v1/score HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;" +
          std::string(254, 'a') + "\r\n{}\n\r\n0\r\n\r\n",  // the longest line of a chunk
      "\x7fPOST /v1/completions HTTP/1.1\r\nContent-Length: 77\r\nConnection: close\r\n\r\n"
      R"({"prompt": [[1, 2, 3], [1, 2, 4, 5]], "echo": true, "logprobs": 1, "n": 1}  )",
      "\x7fPOST /v1/completions?x=%41 HTTP/1.1\r\nContent-Length: 58\r\n\r\n"
      R"({"prompt": ["abcd", "abce", "abcd"], "echo": true, "x": 1})"};
  return seeds;
}
