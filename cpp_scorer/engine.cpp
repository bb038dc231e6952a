#include "engine.h"

#include <utility>

#include "export_check.h"

namespace {

std::optional<ModelInfo> reference_of(const EngineOptions& options, const ModelInfo& model) {
  if (options.reference.empty()) return std::nullopt;
  ModelInfo reference = load_model_info(options.reference);
  check_same_contract(model, reference);
  return reference;
}

std::future<void> start_check(const EngineOptions& options, const ModelInfo* model) {
  if (!options.will_check || !model) return {};
  return std::async(std::launch::async, [model] { check_weights(*model); });
}

}  // namespace

Engine::Engine(const EngineOptions& options)
    : options_(options),
      info_(load_model_info(options.model)),
      reference_info_(reference_of(options, info_)),
      weights_(start_check(options, &info_)),
      reference_weights_(start_check(options, reference_info_ ? &*reference_info_ : nullptr)),
      tokenizer_(Tokenizer::load(info_.tokenizer_path)),
      encoder_(info_.prompt, [this](std::string_view text) { return tokenizer_.encode(text); }),
      model_(info_, options.threads, options.device),
      scorer_(encoder_, model_, reference_info_ ? &reference_.emplace(*reference_info_, options.threads, options.device)
                                                : nullptr, options.score) {
  if (info_.one_at_a_time || (reference_info_ && reference_info_->one_at_a_time)) options_.batch_tokens = 1;
}

PreparedQuestion Engine::prepare(const Line& line, size_t row) const {
  return ::prepare(line, row, encoder_, options_.limits);
}

std::string Engine::check(size_t num_scored) {
  std::string found = check_export(info_, encoder_, model_, std::move(weights_), num_scored) + "\n";
  if (reference_info_) {
    found += check_export(*reference_info_, encoder_, *reference_, std::move(reference_weights_), num_scored) + "\n";
  }
  return found;
}
