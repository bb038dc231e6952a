#include "command_line.h"

#include <getopt.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <system_error>

#include "threads.h"

const char* const kHelp = R"(usage: score --model MODEL.onnx [options] < questions.jsonl > predictions.jsonl
       score --model MODEL.onnx --serve 127.0.0.1:8080 [options]

Scores the candidate endings of every question and chooses one. Questions are JSON lines in any of these forms:
  {"context": "...", "endings": ["...", "..."], "label": 0}      label, answer, scores and id may be left out
  {"citing_prompt": "...", "holding_0": "...", "holding_1": "...", "label": 0}
  {"question": "...", "choices": ["...", "..."], "answer": "B"}
  {"prompt": "...", "responses": ["...", "..."], "scores": [1, 0]}
  {"prompt": "...", "chosen": "...", "rejected": "..."}          as TRL has them: messages and several rejected too

scoring:
  e.g. --model model.onnx --input questions.jsonl --output predictions.jsonl --score pmi

  --model FILE          the model that export.py wrote, its other files beside it (required)
  --input FILE|-        questions (default -, standard input)
  --output FILE|-       predictions (default -, standard output)
  --score NAME          choose by the ending's log-prob (sum, the default), by its mean over tokens (mean), or less
                        its log-prob after a neutral prompt (pmi, which takes a second, shorter run)
  --reference FILE      choose by the log-ratio to this model, the reward that preference training trains
  --device cpu|cuda     where to run (default cpu)
  --threads N           processor threads (default: the physical cores)

limits:
  e.g. --batch-tokens 2048 --max-row-tokens 8192

  --batch-tokens N      padded tokens in one run; a longer question runs alone, and so do all of an int8 model
                        that was exported before 2026-11-24 (default 512)
  --max-row-tokens N    tokens of prompt and endings; a row of more becomes an error record, since memory grows by the
                        square of them (default 4096)
  --max-candidates N    endings of a row (default 1024)
  --max-line-bytes N    bytes of a line (default 4194304)

service:
  e.g. --model model.onnx --serve 127.0.0.1:8080 --workers 2 --threads 8

  --serve HOST:PORT     answer over HTTP, not a stream, until SIGTERM: POST /v1/score and /v1/completions, GET /healthz,
                        /readyz, /metrics, /v1/models, and a page at /; the flags below go with it alone
  --workers N           runs at once, which share --threads (default 1)
  --queue-rows N        rows that may wait; a request for more is refused with 429 (default 1024)
  --max-rows N          rows of a request (default 512)
  --max-body-bytes N    bytes of a request (default 4194304)
  --deadline N          seconds until a request is given up with 504 (default 30)
  --client-timeout N    seconds in which a request must come, and a response be taken (default 20)
  --drain N             seconds after SIGTERM for what was asked before (default 30)
  --token-file FILE     requests must bear the token on its first line, but for /, /healthz and /readyz (default: that
                        in the environment's SCORE_TOKEN, if there is one)

without questions:
  e.g. --model model.onnx --check

  --check               check the bytes of the weights and the answers to the export's golden questions, score nothing;
                        exit code 0, or 1 where something differs
  --tokenize            read lines with "text", write lines with "ids", run nothing
  --tokenizer FILE      with --tokenize, instead of --model: this tokenizer.json, or why it cannot be read
  --version             print the versions of this program and of onnxruntime
  --help                print this

A row that cannot be scored becomes a record with "error" and a line on standard error; the next row is answered.

Exit code: 0 every row was scored, 3 all is done but some rows are error records, 1 bad input, output or model, or no
questions, 2 bad flag, 128 + N ended by signal N. An --output file appears whole or not at all; if the program ends
before, its message names the file in which the answers so far are kept.
)";

namespace {

int64_t positive_number(const std::string& flag, const std::string& text, int64_t largest) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1 || number > largest) {
    throw BadFlag(flag + " takes a number from 1 to " + std::to_string(largest) + ", not '" + text + "'");
  }
  return number;
}

constexpr int64_t kMostBody = 128 << 20;  // bytes: as it comes and as it is read, it is half of what the service holds

/// Which of two words a flag was given: false for the first, true for the second.
bool is_second(const std::string& flag, const std::string& text, const std::string& first,
               const std::string& second) {
  if (text == first || text == second) return text == second;
  throw BadFlag(flag + " takes " + first + " or " + second + ", not '" + text + "'");
}

std::chrono::seconds seconds(const std::string& flag, const std::string& text) {
  return std::chrono::seconds(positive_number(flag, text, 86400));
}

/// HOST:PORT as it was given, once it is one.
std::string address(const std::string& flag, const std::string& text) {
  const size_t colon = text.rfind(':');
  const std::string port = text.substr(colon == text.npos ? text.size() : colon + 1);
  int number = -1;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (colon == 0 || error != std::errc() || end != port.data() + port.size() || number < 0 || number > 65535) {
    throw BadFlag(flag + " takes HOST:PORT, say 127.0.0.1:8080, not '" + text + "'");
  }
  return text;
}

[[noreturn]] void fail_unknown(const std::string& given) {
  throw BadFlag("'" + given + "' is no flag of this program; --help lists them");
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
  enum {
    kModel = 1, kInput, kOutput, kScore, kReference, kDevice, kThreads, kBatchTokens, kMaxRowTokens, kMaxCandidates,
    kMaxLineBytes, kCheck, kTokenize, kTokenizer, kVersion, kHelpFlag,
    kServe, kWorkers, kQueueRows, kMaxRows, kMaxBodyBytes, kDeadline, kClientTimeout, kDrain, kTokenFile
  };
  const option flags[] = {{"model", required_argument, nullptr, kModel},
                          {"input", required_argument, nullptr, kInput},
                          {"output", required_argument, nullptr, kOutput},
                          {"score", required_argument, nullptr, kScore},
                          {"reference", required_argument, nullptr, kReference},
                          {"device", required_argument, nullptr, kDevice},
                          {"threads", required_argument, nullptr, kThreads},
                          {"batch-tokens", required_argument, nullptr, kBatchTokens},
                          {"max-row-tokens", required_argument, nullptr, kMaxRowTokens},
                          {"max-candidates", required_argument, nullptr, kMaxCandidates},
                          {"max-line-bytes", required_argument, nullptr, kMaxLineBytes},
                          {"serve", required_argument, nullptr, kServe},
                          {"workers", required_argument, nullptr, kWorkers},
                          {"queue-rows", required_argument, nullptr, kQueueRows},
                          {"max-rows", required_argument, nullptr, kMaxRows},
                          {"max-body-bytes", required_argument, nullptr, kMaxBodyBytes},
                          {"deadline", required_argument, nullptr, kDeadline},
                          {"client-timeout", required_argument, nullptr, kClientTimeout},
                          {"drain", required_argument, nullptr, kDrain},
                          {"token-file", required_argument, nullptr, kTokenFile},
                          {"check", no_argument, nullptr, kCheck},
                          {"tokenize", no_argument, nullptr, kTokenize},
                          {"tokenizer", required_argument, nullptr, kTokenizer},
                          {"version", no_argument, nullptr, kVersion},
                          {"help", no_argument, nullptr, kHelpFlag},
                          {nullptr, 0, nullptr, 0}};
  CommandLine line;
  std::string of_service;  // a flag that means nothing without --serve
  line.engine.threads = usable_cores();
  opterr = 0;
  // A "+" keeps the arguments in their order, so that the one read is known before.
  for (int flag, at = optind; (flag = getopt_long(argc, argv, "+:", flags, nullptr)) != -1; at = optind) {
    const std::string given = argv[at], name = given.substr(0, given.find('=')), value = optarg ? optarg : "";
    // getopt_long takes any beginning of a name that fits one flag.
    const bool whole = std::any_of(std::begin(flags), std::prev(std::end(flags)),
                                   [&](const option& known) { return name == std::string("--") + known.name; });
    if (flag == '?' || !whole) fail_unknown(given);
    if (flag == ':' || (optarg && value.empty())) throw BadFlag(name + " needs a value");
    if (flag >= kWorkers) of_service = name;
    switch (flag) {
      case kModel: line.engine.model = value; break;
      case kInput: line.input = value; break;
      case kOutput: line.output = value; break;
      case kScore:
        if (!is_score(value, line.engine.score)) throw BadFlag("--score takes sum, mean or pmi, not '" + value + "'");
        break;
      case kReference: line.engine.reference = value; break;
      case kDevice: line.engine.device = is_second(name, value, "cpu", "cuda") ? Device::kCuda : Device::kCpu; break;
      case kThreads: line.engine.threads = static_cast<int>(positive_number(name, value, 1024)); break;
      case kBatchTokens: line.engine.batch_tokens = positive_number(name, value, 1 << 20); break;
      case kMaxRowTokens: line.engine.limits.tokens = positive_number(name, value, 1 << 20); break;
      case kMaxCandidates: line.engine.limits.candidates = positive_number(name, value, 1 << 20); break;
      case kMaxLineBytes: line.engine.longest_line = positive_number(name, value, 1 << 30); break;
      case kServe: line.service.address = address(name, value); break;
      case kWorkers: line.service.workers = static_cast<int>(positive_number(name, value, 256)); break;
      case kQueueRows: line.service.queue_rows = positive_number(name, value, 1 << 20); break;
      case kMaxRows: line.service.most_rows = positive_number(name, value, 1 << 20); break;
      case kMaxBodyBytes: line.service.most_body = positive_number(name, value, kMostBody); break;
      case kDeadline: line.service.deadline = seconds(name, value); break;
      case kClientTimeout: line.service.client_timeout = seconds(name, value); break;
      case kDrain: line.service.drain_time = seconds(name, value); break;
      case kTokenFile: line.service.token_file = value; break;
      case kCheck: line.check = true; break;
      case kTokenize: line.tokenize = true; break;
      case kTokenizer: line.tokenizer = value; break;
      case kVersion: line.version = true; break;
      case kHelpFlag: line.help = true; break;
    }
  }
  if (optind < argc) fail_unknown(argv[optind]);
  if (line.version || line.help) return line;
  if (!line.tokenizer.empty() && (!line.tokenize || !line.engine.model.empty())) {
    throw BadFlag("--tokenizer goes with --tokenize and without --model, which brings its own");
  }
  if (line.engine.model.empty() && line.tokenizer.empty()) throw BadFlag("--model is missing: score --model model.onnx < questions.jsonl");
  if (line.engine.score == Score::kPmi && !line.engine.reference.empty()) {
    throw BadFlag("--score pmi sets log-probs against those after a neutral prompt, so it takes no --reference");
  }
  if (line.engine.score == Score::kSum && !line.engine.reference.empty()) line.engine.score = Score::kReward;
  line.engine.will_check = line.check || !line.service.address.empty();
  if (!line.service.address.empty()) {
    if (line.check || line.tokenize || line.input != "-" || line.output != "-") {
      throw BadFlag("--serve goes with none of --input, --output, --check and --tokenize");
    }
    if (line.service.most_rows > line.service.queue_rows) {
      throw BadFlag("--max-rows is more than --queue-rows, so that such a request would never be taken");
    }
    // The threads of one pool and the workers' own make --threads together.
    line.engine.threads = std::max(1, line.engine.threads - line.service.workers + 1);
    return line;
  }
  if (!of_service.empty()) throw BadFlag(of_service + " goes with --serve");
  if (line.input == "-" && !line.check && isatty(STDIN_FILENO)) {
    throw BadFlag("nothing to read: add --input questions.jsonl, or pipe it in");
  }
  return line;
}
