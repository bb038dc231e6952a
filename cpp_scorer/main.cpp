// score: reads questions as JSON lines, writes predictions as JSON lines. The only part that knows the command line.

#include <getopt.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstring>
#include <exception>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <string>

#include "errors.h"
#include "export_check.h"
#include "json.h"
#include "line_reader.h"
#include "model_info.h"
#include "output_file.h"
#include "prompt.h"
#include "scorer.h"
#include "session.h"
#include "threads.h"
#include "tokenizer.h"

namespace {

constexpr int kSuccess = 0, kBadInput = 1, kBadFlag = 2;

constexpr const char* kHelp = R"(usage: score --model MODEL.onnx [options] < questions.jsonl > predictions.jsonl

Scores the candidate endings of every question and chooses one. Questions are JSON lines in any of these forms:
  {"context": "...", "endings": ["...", "..."], "label": 0}      label, answer, scores and id may be left out
  {"citing_prompt": "...", "holding_0": "...", "holding_1": "...", "label": 0}
  {"question": "...", "choices": ["...", "..."], "answer": "B"}
  {"prompt": "...", "responses": ["...", "..."], "scores": [1, 0]}

  --model FILE          the model that export.py wrote, its other files beside it (required)
  --input FILE|-        questions (default -, standard input)
  --output FILE|-       predictions (default -, standard output)
  --score NAME          choose by the ending's log-prob (sum, the default), by its mean over tokens (mean), or less
                        its log-prob after a neutral prompt (pmi, which takes a second, shorter run)
  --reference FILE      choose by the log-ratio to this model, the quantity that preference training trains
  --device cpu|cuda     where to run (default cpu)
  --threads N           processor threads (default: the physical cores)
  --batch-tokens N      padded tokens in one run; a longer question runs alone, and so do all
                        of an int8 model (default 512)
  --check               check the bytes of the weights and the answers to the export's golden questions, score nothing;
                        exit code 0, or 1 where something differs
  --tokenize            read lines with "text", write lines with "ids", run nothing
  --tokenizer FILE      with --tokenize, instead of --model: this tokenizer.json, or why it cannot be read
  --version             print the versions of this program and of onnxruntime
  --help                print this

Exit code: 0 success, 1 bad input or model (each row at fault has its line on standard error), 2 bad flag.
)";

class BadFlag : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CommandLine {
  std::string model, tokenizer, reference, input = "-", output = "-";
  Score score = Score::kSum;
  Device device = Device::kCpu;
  int threads = usable_cores();
  int64_t batch_tokens = 512;
  bool check = false, tokenize = false, version = false, help = false;
};

int64_t positive_number(const std::string& flag, const std::string& text, int64_t largest) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1 || number > largest) {
    throw BadFlag(flag + " takes a number from 1 to " + std::to_string(largest) + ", not '" + text + "'");
  }
  return number;
}

/// Which of two words a flag was given: false for the first, true for the second.
bool is_second(const std::string& flag, const std::string& text, const std::string& first, const std::string& second) {
  if (text != first && text != second) throw BadFlag(flag + " takes " + first + " or " + second + ", not '" + text + "'");
  return text == second;
}

Score score_named(const std::string& text) {
  for (const Score score : {Score::kSum, Score::kMean, Score::kPmi}) {
    if (name_of(score) == text) return score;
  }
  throw BadFlag("--score takes sum, mean or pmi, not '" + text + "'");
}

CommandLine parse_command_line(int argc, char** argv) {
  enum { kModel = 1, kInput, kOutput, kScore, kReference, kDevice, kThreads, kBatchTokens, kCheck, kTokenize,
         kTokenizer, kVersion, kHelp };
  const option flags[] = {{"model", required_argument, nullptr, kModel},
                          {"input", required_argument, nullptr, kInput},
                          {"output", required_argument, nullptr, kOutput},
                          {"score", required_argument, nullptr, kScore},
                          {"reference", required_argument, nullptr, kReference},
                          {"device", required_argument, nullptr, kDevice},
                          {"threads", required_argument, nullptr, kThreads},
                          {"batch-tokens", required_argument, nullptr, kBatchTokens},
                          {"check", no_argument, nullptr, kCheck},
                          {"tokenize", no_argument, nullptr, kTokenize},
                          {"tokenizer", required_argument, nullptr, kTokenizer},
                          {"version", no_argument, nullptr, kVersion},
                          {"help", no_argument, nullptr, kHelp},
                          {nullptr, 0, nullptr, 0}};
  CommandLine line;
  opterr = 0;
  for (int flag; (flag = getopt_long(argc, argv, ":", flags, nullptr)) != -1;) {
    const std::string value = optarg ? optarg : "";
    switch (flag) {
      case kModel: line.model = value; break;
      case kInput: line.input = value; break;
      case kOutput: line.output = value; break;
      case kScore: line.score = score_named(value); break;
      case kReference: line.reference = value; break;
      case kDevice: line.device = is_second("--device", value, "cpu", "cuda") ? Device::kCuda : Device::kCpu; break;
      case kThreads: line.threads = static_cast<int>(positive_number("--threads", value, 1024)); break;
      case kBatchTokens: line.batch_tokens = positive_number("--batch-tokens", value, 1 << 20); break;
      case kCheck: line.check = true; break;
      case kTokenize: line.tokenize = true; break;
      case kTokenizer: line.tokenizer = value; break;
      case kVersion: line.version = true; break;
      case kHelp: line.help = true; break;
      case ':': throw BadFlag(std::string(argv[optind - 1]) + " needs a value");
      default: throw BadFlag(std::string("'") + argv[optind - 1] + "' is no flag of this program");
    }
  }
  if (optind < argc) throw BadFlag(std::string("'") + argv[optind] + "' is no flag of this program");
  if (line.version || line.help) return line;
  if (!line.tokenizer.empty() && (!line.tokenize || !line.model.empty())) {
    throw BadFlag("--tokenizer goes with --tokenize and without --model, which brings its own");
  }
  if (line.model.empty() && line.tokenizer.empty()) {
    throw BadFlag("--model is missing: score --model model.onnx < questions.jsonl");
  }
  if (line.score == Score::kPmi && !line.reference.empty()) {
    throw BadFlag("--score pmi sets log-probs against those after a neutral prompt, so it takes no --reference");
  }
  if (line.input == "-" && !line.check && isatty(STDIN_FILENO)) {
    throw BadFlag("no questions: score --model " + line.model + " --input questions.jsonl (or pipe them in)");
  }
  return line;
}

int tokenize(const CommandLine& line, const Tokenizer& tokenizer) {
  LineReader input(line.input);
  OutputFile output(line.output);
  bool failed = false;
  for (size_t row = 0; const auto text = input.next(); ++row) {
    try {
      if (text->too_long) throw RowError("the line is too long");
      std::string ids;
      for (const int64_t id : tokenizer.encode(JsonRow(text->text).text())) {
        ids += (ids.empty() ? "" : ", ") + std::to_string(id);
      }
      output.write("{\"ids\": [" + ids + "]}\n");
    } catch (const RowError& error) {
      failed = true;
      std::cerr << "error: " << input.name() << ":" << text->number << ": " << error.what() << std::endl;
      output.write(error_to_json(std::to_string(row), error.what()));
    }
  }
  output.commit();
  return failed ? kBadInput : kSuccess;
}

int check(const CommandLine& line) {
  OutputFile output("-");
  for (const std::string& path : {line.model, line.reference}) {
    if (path.empty()) continue;
    const ModelInfo info = load_model_info(path);
    const Tokenizer tokenizer = Tokenizer::load(info.tokenizer_path);
    const PromptEncoder encoder(info.prompt, [&](std::string_view text) { return tokenizer.encode(text); });
    Session session(info, line.threads, line.device);
    output.write(check_export(info, encoder, session) + "\n");
  }
  return kSuccess;
}

int score(const CommandLine& line, const ModelInfo& info, const Tokenizer& tokenizer) {
  bool one_at_a_time = info.one_at_a_time;
  std::optional<ModelInfo> reference_info;
  if (!line.reference.empty()) {
    reference_info = load_model_info(line.reference);
    check_same_contract(info, *reference_info);
    one_at_a_time |= reference_info->one_at_a_time;
  }
  const PromptEncoder encoder(info.prompt, [&](std::string_view text) { return tokenizer.encode(text); });
  LineReader input(line.input);
  OutputFile output(line.output);
  Session model(info, line.threads, line.device);
  std::optional<Session> reference;
  if (reference_info) reference.emplace(*reference_info, line.threads, line.device);

  const Totals totals = score_stream(input, output, std::cerr, encoder, model, reference ? &*reference : nullptr,
                                     {line.score, one_at_a_time ? 1 : line.batch_tokens});
  output.commit();
  if (totals.questions == 0) std::cerr << input.name() << " holds no questions" << std::endl;
  if (totals.labelled > 0) std::cerr << totals.summary(line.score) << std::endl;
  return totals.errors > 0 ? kBadInput : kSuccess;
}

int run(const CommandLine& line) {
  if (line.help || line.version) {
    OutputFile("-").write(line.help ? kHelp : "score " SCORER_VERSION ", onnxruntime " + Session::runtime_version() + "\n");
    return kSuccess;
  }
  if (!line.tokenizer.empty()) return tokenize(line, Tokenizer::load(line.tokenizer));
  if (line.check) return check(line);
  const ModelInfo info = load_model_info(line.model);
  const Tokenizer tokenizer = Tokenizer::load(info.tokenizer_path);
  return line.tokenize ? tokenize(line, tokenizer) : score(line, info, tokenizer);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a broken pipe is seen, and told, where it is written to
  try {
    return run(parse_command_line(argc, argv));
  } catch (const BadFlag& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return kBadFlag;
  } catch (const std::bad_alloc&) {
    std::cerr << "error: out of memory" << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
  }
  return kBadInput;
}
