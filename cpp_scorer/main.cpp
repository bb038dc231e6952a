// score: questions as JSON lines in, predictions as JSON lines out, in a stream or over HTTP.

#include <fcntl.h>
#include <unistd.h>

#include <exception>
#include <iostream>
#include <limits>
#include <new>
#include <string>

#include "command_line.h"
#include "engine.h"
#include "errors.h"
#include "json.h"
#include "line_reader.h"
#include "model_info.h"
#include "output_file.h"
#include "scorer.h"
#include "service.h"
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

Totals tokenize(LineReader& input, OutputFile& output, const CommandLine& line) {
  const Tokenizer tokenizer = Tokenizer::load(
      line.engine.model.empty() ? line.tokenizer : load_model_info(line.engine.model).tokenizer_path);
  Totals totals;
  for (; const auto text = input.next(); ++totals.questions) {
    try {
      if (!text->error.empty()) throw RowError(text->error);
      std::string ids;
      for (const int64_t id : tokenizer.encode(JsonRow(text->text).text("text"))) {
        ids += (ids.empty() ? "" : ", ") + std::to_string(id);
      }
      output.write("{\"ids\": [" + ids + "]}\n");
    } catch (const RowError& error) {
      ++totals.errors;
      std::cerr << "error: " << input.name() << ":" << text->number << ": " << error.what() << std::endl;
      output.write(error_to_json(std::to_string(totals.questions), error.what()));
    }
  }
  return totals;
}

Totals score(LineReader& input, OutputFile& output, const CommandLine& line) {
  Engine engine(line.engine);
  return score_stream(input, output, std::cerr, engine);
}

int check(const EngineOptions& options) {
  OutputFile output("-");
  output.write(Engine(options).check(std::numeric_limits<size_t>::max()));
  return kSuccess;
}

int run(const CommandLine& line) {
  if (line.help || line.version) {
    const std::string version = "score " SCORER_VERSION ", onnxruntime " + Session::runtime_version() + "\n";
    OutputFile("-").write(line.help ? kHelp : version);
    return kSuccess;
  }
  if (line.check) return check(line.engine);
  if (!line.service.address.empty()) {
    Service(line.service, line.engine).run();
    return kSuccess;
  }
  LineReader input(line.input, line.engine.longest_line);
  OutputFile output(line.output);
  try {
    const Totals totals = line.tokenize ? tokenize(input, output, line) : score(input, output, line);
    if (totals.questions == 0 && !line.tokenize) throw FatalError(input.name() + ": there are no questions in it");
    output.commit();
    if (totals.labelled > 0) std::cerr << totals.summary(line.engine.score) << std::endl;
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
