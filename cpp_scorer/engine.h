#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "batch_scorer.h"
#include "model_info.h"
#include "prediction.h"
#include "prepared_question.h"
#include "prompt.h"
#include "session.h"
#include "tokenizer.h"

struct EngineOptions {
  std::string model, reference;  // paths of ONNX files; `reference` may be empty
  Score score = Score::kSum;
  Device device = Device::kCpu;
  int threads = 1;
  int64_t batch_tokens = 512;  // padded tokens (questions x longest row) in one run; a single question may have more
  RowLimits limits{4096, 1024};
  size_t longest_line = 4 * 1024 * 1024;  // bytes
  bool will_check = false;  // read all weights beside loading, for Engine::check
};

/// A model ready to score: its files, tokenizer, prompt contract and session, and those of a reference. What is not
/// const in it may be called from several threads.
class Engine {
 public:
  /// Throws FatalError where the model or the reference cannot be used, or do not go together.
  explicit Engine(const EngineOptions& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  PreparedQuestion prepare(const Line& line, size_t row) const;

  std::vector<Answer> answer(const Batch& batch) { return scorer_.answer(batch); }

  const EngineOptions& options() const { return options_; }
  const ModelInfo& info() const { return info_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const PromptEncoder& encoder() const { return encoder_; }
  Session& session() { return model_; }

  /// What check_export says of the model and of the reference, a line each. Throws FatalError where one is not what was
  /// exported, or gives other answers here. Once, and of an engine that `will_check`.
  std::string check(size_t num_scored);

 private:
  EngineOptions options_;
  const ModelInfo info_;
  std::optional<ModelInfo> reference_info_;
  std::future<void> weights_, reference_weights_;  // check_weights
  const Tokenizer tokenizer_;
  const PromptEncoder encoder_;
  Session model_;
  std::optional<Session> reference_;
  BatchScorer scorer_;
};
