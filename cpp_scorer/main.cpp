// score: reads questions as JSON lines, writes predictions as JSON lines.

#include <fcntl.h>
#include <unistd.h>

#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <string>

#include "command_line.h"
#include "errors.h"
#include "export_check.h"
#include "json.h"
#include "line_reader.h"
#include "model_info.h"
#include "output_file.h"
#include "prompt.h"
#include "scorer.h"
#include "session.h"
#include "signals.h"
#include "tokenizer.h"

namespace {

constexpr int kSuccess = 0, kNothingUsable = 1, kBadFlag = 2, kSomeRowsFailed = 3;

/// Where 0, 1 or 2 is closed, the next file opened would take its number and be read or written in its stead. What is
/// opened here fails on every use, as a closed one does.
void fill_standard_descriptors() {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

Totals tokenize(LineReader& input, OutputFile& output, const Tokenizer& tokenizer) {
  Totals totals;
  for (; const auto line = input.next(); ++totals.questions) {
    try {
      if (!line->error.empty()) throw RowError(line->error);
      std::string ids;
      for (const int64_t id : tokenizer.encode(JsonRow(line->text).text("text"))) {
        ids += (ids.empty() ? "" : ", ") + std::to_string(id);
      }
      output.write("{\"ids\": [" + ids + "]}\n");
    } catch (const RowError& error) {
      ++totals.errors;
      std::cerr << "error: " << input.name() << ":" << line->number << ": " << error.what() << std::endl;
      output.write(error_to_json(std::to_string(totals.questions), error.what()));
    }
  }
  return totals;
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

Totals score(const CommandLine& line, LineReader& input, OutputFile& output, const ModelInfo& info,
             const Tokenizer& tokenizer) {
  bool one_at_a_time = info.one_at_a_time;
  std::optional<ModelInfo> reference_info;
  if (!line.reference.empty()) {
    reference_info = load_model_info(line.reference);
    check_same_contract(info, *reference_info);
    one_at_a_time |= reference_info->one_at_a_time;
  }
  const PromptEncoder encoder(info.prompt, [&](std::string_view text) { return tokenizer.encode(text); });
  Session model(info, line.threads, line.device);
  std::optional<Session> reference;
  if (reference_info) reference.emplace(*reference_info, line.threads, line.device);
  return score_stream(input, output, std::cerr, encoder, model, reference ? &*reference : nullptr,
                      {line.score, one_at_a_time ? 1 : line.batch_tokens, line.limits});
}

int run(const CommandLine& line) {
  if (line.help || line.version) {
    const std::string version = "score " SCORER_VERSION ", onnxruntime " + Session::runtime_version() + "\n";
    OutputFile("-").write(line.help ? kHelp : version);
    return kSuccess;
  }
  if (line.check) return check(line);
  std::optional<ModelInfo> info;
  if (!line.model.empty()) info = load_model_info(line.model);
  const Tokenizer tokenizer = Tokenizer::load(info ? info->tokenizer_path : line.tokenizer);
  LineReader input(line.input, line.longest_line);
  OutputFile output(line.output);
  try {
    const Totals totals =
        line.tokenize ? tokenize(input, output, tokenizer) : score(line, input, output, *info, tokenizer);
    if (totals.questions == 0 && !line.tokenize) throw FatalError(input.name() + ": there are no questions in it");
    output.commit();
    if (totals.labelled > 0) std::cerr << totals.summary(line.score) << std::endl;
    return totals.errors > 0 ? kSomeRowsFailed : kSuccess;
  } catch (const std::bad_alloc&) {
    throw FatalError(kOutOfMemory + output.kept());
  } catch (const std::exception& error) {
    throw FatalError(error.what() + output.kept());
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    fill_standard_descriptors();
    take_signals();
    return run(parse_command_line(argc, argv));
  } catch (const BadFlag& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return kBadFlag;
  } catch (const std::bad_alloc&) {
    std::cerr << "error: " << kOutOfMemory << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
  }
  return kNothingUsable;
}
