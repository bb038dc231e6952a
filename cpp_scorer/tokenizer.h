#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "added_tokens.h"
#include "bpe.h"
#include "tokenizer_json.h"

/// The tokenizer of a tokenizer.json: added tokens, normaliser, pre-tokeniser and byte-pair encoding of a known form.
class Tokenizer {
 public:
  /// Reads tokenizer.json. Throws FatalError, naming file and field, for a tokenizer whose ids it could not reproduce.
  static Tokenizer load(const std::string& path);

  /// Throws FatalError, naming the field, where the vocabulary lacks a token, or added tokens would have other ids.
  explicit Tokenizer(TokenizerSpec spec);
  Tokenizer(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// The ids that the `tokenizers` library gives with add_special_tokens=False. As there, a text that spells an added
  /// token has its id, so that <|endoftext|> in a question ends the text. May be called from several threads.
  /// Throws RowError where the text is not UTF-8 or longer than 256 MiB.
  std::vector<int64_t> encode(std::string_view text) const;

  /// One more than the highest id of a token.
  int64_t end_of_ids() const { return end_of_ids_; }

 private:
  struct Workspace;

  std::string in_vocabulary(std::string_view word) const;
  size_t unmerged_end(std::string_view word, size_t start) const;
  void encode_word(std::string_view word, Workspace& space, std::vector<int64_t>& ids) const;
  void encode_piece(std::string_view piece, size_t step, Workspace& space, std::vector<int64_t>& ids) const;

  TokenizerForm form_;
  int64_t end_of_ids_;
  std::array<std::string, 256> alphabet_;  // the character that stands for each byte in a byte-level vocabulary
  Bpe bpe_;
  AddedTokens added_, added_normalized_;  // looked for before the normaliser, and behind it
  std::unordered_map<std::string, uint32_t> whole_words_;  // filled where they come before merges
  std::bitset<256> joined_;  // the bytes behind which a merge may join the mark of a space to what stands before it
  std::unique_ptr<Workspace> shared_;  // of whoever comes first; others have their own
};
