#pragma once

#include <map>
#include <string>

#include "prompt.h"

/// What a model file says about itself. Whatever is at odds with the files beside it is refused.
struct ModelInfo {
  std::string path;  // the .onnx file; the others lie beside it
  std::string tokenizer_path, tokenizer_sha256;
  std::string weights_path, weights_sha256;
  PromptConfig prompt;
  int64_t max_positions = -1;  // of a sequence, past which the graph gives other log-probs than the model; -1: none
  bool quantized = false;
  // Whether a run takes one question only: int8 of format 1 scales activations over the whole run, and an answer may
  // not depend on what stood beside it.
  bool one_at_a_time = false;
  std::map<std::string, std::string> metadata;  // all that export.py wrote
};

/// Reads and checks the metadata that export.py writes. Throws FatalError where a key is absent, the format version
/// is another, the tokenizer's hash differs, the graph or the metadata name weights of another export, or a file named
/// there lies elsewhere or is no regular file. Of the weights only the names are looked at.
ModelInfo load_model_info(const std::string& path);

/// Reads all of the weights. Throws FatalError where they are not those that were exported.
void check_weights(const ModelInfo& model);

/// `loaded`: the metadata of the graph once it is in memory. Throws FatalError where a new export has meanwhile taken
/// the place of the one that `model` describes: graph and tokenizer may then be of different ones.
void check_unchanged(const ModelInfo& model, const std::map<std::string, std::string>& loaded);

/// Throws FatalError where the two models would not see the same ids: their log-probs could not be compared.
void check_same_contract(const ModelInfo& model, const ModelInfo& reference);
