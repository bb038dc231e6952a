#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "added_tokens.h"
#include "bpe.h"

struct TokenizerSpec;

/// The tokenizer of a tokenizer.json of Qwen2's form: added tokens, NFC, Qwen2's split, byte-level BPE.
class Tokenizer {
 public:
  /// Reads tokenizer.json. Throws FatalError, naming file and field, for a tokenizer whose ids it could not reproduce.
  static Tokenizer load(const std::string& path);

  /// Throws FatalError, naming the field, where the vocabulary lacks a token, or added tokens would have other ids.
  explicit Tokenizer(TokenizerSpec spec);

  /// The ids that the `tokenizers` library gives with add_special_tokens=False. May be called from several threads.
  /// Throws RowError where the text is not UTF-8 or longer than 256 MiB.
  std::vector<int64_t> encode(std::string_view text) const;

 private:
  void encode_word(std::string_view word, Bpe::Scratch& scratch, std::vector<int64_t>& ids) const;

  std::array<std::string, 256> alphabet_;  // the character that stands for each byte in the vocabulary
  Bpe bpe_;
  AddedTokens added_, added_normalized_;  // looked for before NFC, and after it
  std::unordered_map<std::string, uint32_t> whole_words_;  // filled where they come before merges
};
