#include "tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "errors.h"
#include "one_line.h"
#include "utf8.h"
#include "word_cache.h"

namespace {

constexpr size_t kLongestText = size_t{1} << 28;

uint32_t id_of(const TokenizerSpec& spec, const std::string& token, const char* user) {
  const auto found = spec.vocab.find(token);
  if (found == spec.vocab.end()) throw FatalError("field 'vocab': '" + token + "' is missing; " + user + " needs it");
  return found->second;
}

/// The character that a token consists of, if it is one alone.
std::optional<char32_t> character_of(std::string_view token) {
  if (token.empty()) return std::nullopt;
  size_t end = 0;
  const char32_t code = next_code_point(token, end);
  return end == token.size() ? std::optional(code) : std::nullopt;
}

/// How a vocabulary of characters writes a byte: <0x0A>.
std::string byte_token(unsigned byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">";
}

/// Whether it occurs in UTF-8.
bool occurs(unsigned byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

FirstTokens first_tokens_of_bytes(const TokenizerSpec& spec) {
  FirstTokens first;
  const std::array<std::string, 256> alphabet = byte_alphabet();
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool may_lack = spec.leaves_out_unknown || !occurs(byte);
    first.bytes[byte] = may_lack && spec.vocab.count(alphabet[byte]) == 0
                            ? FirstTokens::kLeftOut
                            : id_of(spec, alphabet[byte], "the byte-level alphabet");
  }
  return first;
}

FirstTokens first_tokens_of_characters(const TokenizerSpec& spec) {
  FirstTokens first;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto own = byte < 0x80 ? spec.vocab.find(std::string(1, static_cast<char>(byte))) : spec.vocab.end();
    first.bytes[byte] = own != spec.vocab.end() ? own->second : id_of(spec, byte_token(byte), "byte_fallback");
  }
  for (const auto& [token, id] : spec.vocab) {
    if (const auto code = character_of(token)) first.characters.emplace(*code, id);
  }
  return first;
}

Bpe make_bpe(const TokenizerSpec& spec) {
  std::vector<Merge> merges;
  merges.reserve(spec.merges.size());
  for (const auto& [left, right] : spec.merges) {
    const uint32_t merged = id_of(spec, left + right, "a merge");
    merges.push_back({id_of(spec, left, "a merge"), id_of(spec, right, "a merge"), merged});
  }
  return Bpe(spec.form.byte_level ? first_tokens_of_bytes(spec) : first_tokens_of_characters(spec), merges);
}

/// See Tokenizer::joined_.
std::bitset<256> joined_bytes(const TokenizerSpec& spec) {
  const auto is_byte = [](const std::string& token) { return token.size() == 6 && token.rfind("<0x", 0) == 0; };
  bool all = spec.form.byte_level || spec.ignore_merges || spec.vocab.count(std::string(kSpaceMark)) == 0;
  std::bitset<256> joined;
  for (const auto& [left, right] : spec.merges) {
    all |= is_byte(left) || is_byte(right);  // then it is not characters that meet
    const std::string merged = left + right;
    for (size_t at = merged.find(kSpaceMark, 1); at != merged.npos; at = merged.find(kSpaceMark, at + 1)) {
      joined.set(static_cast<unsigned char>(merged[at - 1]));
    }
  }
  return all ? joined.set() : joined;
}

/// The `tokenizers` library numbers added tokens itself: as in the vocabulary, else on from the highest of the others.
/// Where the file says otherwise, throws FatalError.
void check_added_ids(const TokenizerSpec& spec) {
  const int64_t vocab_size = static_cast<int64_t>(spec.vocab.size());
  int64_t highest = -1;
  std::set<std::string_view> seen;
  for (const TokenizerSpec::AddedToken& token : spec.added_tokens) {
    if (!seen.insert(token.content).second) {
      throw FatalError("field 'added_tokens': '" + token.content + "' is there twice");
    }
    const auto known = spec.vocab.find(token.content);
    const int64_t expected = known != spec.vocab.end() ? known->second : std::max(highest + 1, vocab_size);
    if (token.id != expected) {
      throw FatalError("field 'added_tokens': '" + token.content + "' has id " + std::to_string(token.id) +
                       ", but loading it elsewhere gives " + std::to_string(expected));
    }
    if (known == spec.vocab.end()) highest = std::max(highest, expected);
  }
}

int64_t end_of(const TokenizerSpec& spec) {
  int64_t end = 0;
  for (const auto& [token, id] : spec.vocab) end = std::max<int64_t>(end, id + 1);
  for (const TokenizerSpec::AddedToken& token : spec.added_tokens) end = std::max<int64_t>(end, token.id + 1);
  return end;
}

/// Those that are looked for before the normaliser, or those behind it, which it is asked to normalise too.
AddedTokens added_tokens(const TokenizerSpec& spec, bool normalized) {
  std::vector<AddedTokens::Token> tokens;
  std::string room;
  for (const auto& [content, id, is_normalized, lstrip, rstrip] : spec.added_tokens) {
    if (is_normalized != normalized) continue;
    if (content.empty()) throw FatalError("field 'added_tokens': '' is empty");
    const std::string_view sought = normalized ? spec.form.normalise(content, true, room) : std::string_view(content);
    tokens.push_back({std::string(sought), id, lstrip, rstrip});
  }
  return AddedTokens(std::move(tokens));
}

/// Appends the ids of `text`: of the added tokens in it, and of what lies between them as `encode_between` appends
/// them, which is told whether the text begins with it.
template <typename EncodeBetween>
void encode_around(const AddedTokens& tokens, std::string_view text, std::vector<int64_t>& ids,
                   const EncodeBetween& encode_between) {
  size_t begin = 0;
  const auto encode_until = [&](size_t end) {
    if (begin < end) encode_between(text.substr(begin, end - begin), begin == 0);
  };
  for (const AddedTokens::Match& match : tokens.find_all(text)) {
    encode_until(match.begin);
    ids.push_back(match.id);
    begin = match.end;
  }
  encode_until(text.size());
}

}  // namespace

struct Tokenizer::Workspace {
  std::mutex busy;
  WordCache words;
  Bpe::Scratch scratch;
};

Tokenizer::Tokenizer(TokenizerSpec spec)
    : form_(spec.form),
      end_of_ids_(end_of(spec)),
      alphabet_(byte_alphabet()),
      bpe_(make_bpe(spec)),
      added_(added_tokens(spec, false)),
      added_normalized_(added_tokens(spec, true)),
      joined_(joined_bytes(spec)),
      shared_(std::make_unique<Workspace>()) {
  check_added_ids(spec);
  if (spec.ignore_merges) whole_words_ = std::move(spec.vocab);
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::string& path) {
  std::error_code failed;
  const uintmax_t size = std::filesystem::file_size(path, failed);
  std::string text(failed ? 0 : size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (failed || !file.read(text.data(), static_cast<std::streamsize>(size))) {
    throw FatalError(path + ": cannot be read");
  }
  try {
    return Tokenizer(parse_tokenizer_json(text));
  } catch (const FatalError& error) {
    throw FatalError(one_line(path + ": " + error.what()));
  }
}

/// The end of the longest piece from `start` on that no merge joins to what follows it.
size_t Tokenizer::unmerged_end(std::string_view word, size_t start) const {
  if (joined_.all()) return word.size();
  size_t at = word.find(kSpaceMark, start + 1);
  while (at != word.npos && joined_[static_cast<unsigned char>(word[at - 1])]) at = word.find(kSpaceMark, at + 1);
  return std::min(at, word.size());
}

void Tokenizer::encode_word(std::string_view word, Workspace& space, std::vector<int64_t>& ids) const {
  if (space.words.append(word, ids)) return;
  const size_t first = ids.size();
  const auto whole = whole_words_.empty() ? whole_words_.end() : whole_words_.find(in_vocabulary(word));
  if (whole != whole_words_.end()) {
    ids.push_back(whole->second);
  } else {
    bpe_.encode(word, space.scratch, ids);
  }
  space.words.store(word, ids, first);
}

/// The word as the vocabulary writes it.
std::string Tokenizer::in_vocabulary(std::string_view word) const {
  if (!form_.byte_level) return std::string(word);
  std::string token;
  for (const char byte : word) token += alphabet_[static_cast<unsigned char>(byte)];
  return token;
}

/// Splits the piece by the form's splits from number `step` on.
void Tokenizer::encode_piece(std::string_view piece, size_t step, Workspace& space, std::vector<int64_t>& ids) const {
  const bool is_word = step == form_.splits.size();
  for (size_t begin = 0; begin < piece.size();) {
    const size_t end = is_word ? unmerged_end(piece, begin) : form_.splits[step](piece, begin);
    const std::string_view part = piece.substr(begin, end - begin);
    is_word ? encode_word(part, space, ids) : encode_piece(part, step + 1, space, ids);
    begin = end;
  }
}

std::vector<int64_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() > kLongestText) throw RowError("the text is longer than 256 MiB");
  const size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string_view::npos) throw RowError("the text is not UTF-8, at byte " + std::to_string(invalid));

  const std::unique_lock<std::mutex> lock(shared_->busy, std::try_to_lock);
  std::optional<Workspace> own;
  Workspace& space = lock ? *shared_ : own.emplace();
  std::vector<int64_t> ids;
  std::string normalised, rewritten;
  encode_around(added_, text, ids, [&](std::string_view part, bool first) {
    const std::string_view piece = form_.normalise(part, first, normalised);
    encode_around(added_normalized_, piece, ids, [&](std::string_view between, bool first_between) {
      encode_piece(form_.rewrite(between, first && first_between, rewritten), 0, space, ids);
    });
  });
  return ids;
}
