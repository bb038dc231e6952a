#pragma once

#include <string>

#include "prompt.h"

/// What a model file says about itself. Whatever is at odds with the files beside it is refused.
struct ModelInfo {
  std::string path;            // the .onnx file
  std::string tokenizer_path;  // beside it
  std::string tokenizer_sha256;
  PromptConfig prompt;
  // Whether a run takes one question only: int8 scales activations over the whole run, and an answer may not depend
  // on what stood beside it.
  bool one_at_a_time = false;
};

/// Reads and checks the metadata that export.py writes. Throws FatalError where a key is absent, the format version
/// is another, the tokenizer's hash differs, the weights' file is missing or not the one the graph was exported with.
ModelInfo load_model_info(const std::string& path);

/// Throws FatalError where the two models would not see the same ids: their log-probs could not be compared.
void check_same_contract(const ModelInfo& model, const ModelInfo& reference);
