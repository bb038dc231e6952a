#include "export_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <system_error>
#include <vector>

#include "errors.h"
#include "json.h"
#include "line_reader.h"
#include "packer.h"
#include "sha256.h"

namespace {

constexpr size_t kLongestLine = 64 * 1024 * 1024;  // of the golden questions, in bytes
// Of a log-prob, a sum over tokens: absolute, and per unit of its size, where fp32 rounds; as in lib/export/check.py.
constexpr double kAbsolute = 2e-3, kRelative = 1e-5;
// Of an int8 model, nats a token. Kernels of different processors round differently before activations are quantised:
// 0.009 at most was seen. Products that saturate change 0.1 on average.
constexpr double kInt8 = 0.02;

/// Ids of endings one after the other, as JsonRow::numbers gives them.
std::vector<double> flat(const std::vector<std::vector<int64_t>>& lists) {
  std::vector<double> numbers;
  for (const auto& list : lists) numbers.insert(numbers.end(), list.begin(), list.end());
  return numbers;
}

struct Golden {
  size_t line;
  EncodedQuestion question;
  std::vector<double> logprobs;
};

/// The golden question as ids. Throws RowError where they are not those that it was exported with.
EncodedQuestion check_ids(const JsonRow& row, const PromptEncoder& encoder) {
  EncodedQuestion question = encoder.encode(row.question());
  if (flat({question.prompt_ids}) != row.numbers("prompt_ids") || flat(question.ending_ids) != row.numbers("ending_ids")) {
    throw RowError("the ids of its text are not those it was exported with");
  }
  return question;
}

/// Scores one golden question; returns the largest difference of a log-prob. Throws RowError where it is too large.
double check_logprobs(const Golden& golden, const ModelInfo& model, Session& session) {
  const std::vector<float> found = session.run(pack({&golden.question})).values;
  if (found.size() != golden.logprobs.size()) throw RowError("field 'logprobs': not one number a candidate");
  double largest = 0;
  for (size_t k = 0; k < found.size(); ++k) {
    const double expected = golden.logprobs[k], difference = std::abs(found[k] - expected);
    const double rounding = model.quantized ? kInt8 * static_cast<double>(golden.question.ending_ids[k].size()) : 0;
    if (!(difference <= kAbsolute + kRelative * std::abs(expected) + rounding)) {  // NaN fails too
      std::ostringstream message;
      message << "candidate " << k << " has log-prob " << found[k] << " here, " << expected << " where it was exported";
      throw RowError(message.str());
    }
    largest = std::max(largest, difference);
  }
  return largest;
}

std::string check_golden(const ModelInfo& model, const PromptEncoder& encoder, Session& session, size_t num_scored) {
  const std::string path = std::filesystem::path(model.path).replace_extension(".golden.jsonl");
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw FatalError(path + ": the golden questions of the export are missing; keep the files of one export together");
  }
  const auto at_line = [&path](size_t line, const auto& check) {
    try {
      return check();
    } catch (const RowError& error) {
      throw FatalError(path + ":" + std::to_string(line) + ": " + error.what());
    }
  };
  const bool names_model = model.metadata.at("format_version") != "1";
  const std::string sha256 = sha256_of_file(model.path);
  std::vector<Golden> questions;
  LineReader lines(path, kLongestLine);
  while (const auto line = lines.next()) {
    questions.push_back(at_line(line->number, [&] {
      const JsonRow row(line->text);
      if (names_model && row.text("model_sha256") != sha256) {
        throw RowError("a question of another export; keep the files of one export together");
      }
      return Golden{line->number, check_ids(row, encoder), row.numbers("logprobs")};
    }));
  }
  if (questions.empty()) throw FatalError(path + ": holds no questions; export the model again");
  std::stable_sort(questions.begin(), questions.end(), [](const Golden& one, const Golden& other) {
    return one.question.num_tokens() < other.question.num_tokens();
  });
  questions.resize(std::min(questions.size(), num_scored));
  double largest = 0;
  for (const Golden& golden : questions) {
    largest = std::max(largest, at_line(golden.line, [&] { return check_logprobs(golden, model, session); }));
  }
  std::ostringstream summary;
  summary << model.path << ": the weights are those that were exported; " << questions.size()
          << " golden questions give the same, to " << largest << " nats";
  return summary.str();
}

}  // namespace

std::string check_export(const ModelInfo& model, const PromptEncoder& encoder, Session& session,
                         std::future<void> weights, size_t num_scored) {
  try {
    std::string found = check_golden(model, encoder, session, num_scored);
    weights.get();
    return found;
  } catch (const FatalError&) {
    if (weights.valid()) weights.get();  // other weights are why its answers are others
    throw;
  }
}
