#include "tokenizer.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <utility>

#include "errors.h"
#include "pretokenize.h"
#include "tokenizer_json.h"
#include "unicode.h"
#include "utf8.h"

namespace {

constexpr size_t kLongestText = size_t{1} << 28;

Bpe make_bpe(const TokenizerSpec& spec, const std::array<std::string, 256>& alphabet) {
  const auto id_of = [&](const std::string& token, const char* user) {
    const auto found = spec.vocab.find(token);
    if (found == spec.vocab.end()) throw FatalError("field 'vocab': '" + token + "' is missing; " + user + " needs it");
    return found->second;
  };
  std::array<uint32_t, 256> byte_ids;
  std::transform(alphabet.begin(), alphabet.end(), byte_ids.begin(),
                 [&](const std::string& token) { return id_of(token, "the byte-level alphabet"); });
  std::vector<Merge> merges;
  for (const auto& [left, right] : spec.merges) {
    merges.push_back({id_of(left, "a merge"), id_of(right, "a merge"), id_of(left + right, "a merge")});
  }
  return Bpe(byte_ids, merges);
}

/// The `tokenizers` library numbers added tokens itself: as in the vocabulary, else on from the highest one so far. Where
/// the file says otherwise, throws FatalError.
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
    highest = std::max(highest, expected);
  }
}

/// Appends the ids of `text`: of the added tokens in it, and of what lies between them as `encode_between` appends them.
template <typename EncodeBetween>
void encode_around(const AddedTokens& tokens, std::string_view text, std::vector<int64_t>& ids,
                   const EncodeBetween& encode_between) {
  size_t begin = 0;
  while (const auto match = tokens.find(text, begin)) {
    encode_between(text.substr(begin, match->begin - begin));
    ids.push_back(match->id);
    begin = match->end;
  }
  encode_between(text.substr(begin));
}

}  // namespace

Tokenizer::Tokenizer(TokenizerSpec spec) : alphabet_(byte_alphabet()), bpe_(make_bpe(spec, alphabet_)) {
  check_added_ids(spec);
  for (TokenizerSpec::AddedToken& token : spec.added_tokens) {
    try {
      if (token.normalized) {
        added_normalized_.add(to_nfc(token.content), token.id);
      } else {
        added_.add(token.content, token.id);
      }
    } catch (const std::invalid_argument& error) {
      throw FatalError("field 'added_tokens': '" + token.content + "' " + error.what());
    }
  }
  if (spec.ignore_merges) whole_words_ = std::move(spec.vocab);
}

Tokenizer Tokenizer::load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw FatalError(path + ": cannot be read");
  try {
    return Tokenizer(parse_tokenizer_json(text));
  } catch (const FatalError& error) {
    throw FatalError(path + ": " + error.what());
  }
}

void Tokenizer::encode_word(std::string_view word, Bpe::Scratch& scratch, std::vector<int64_t>& ids) const {
  if (!whole_words_.empty()) {
    std::string token;
    for (const char byte : word) token += alphabet_[static_cast<unsigned char>(byte)];
    const auto found = whole_words_.find(token);
    if (found != whole_words_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  bpe_.encode(word, scratch, ids);
}

std::vector<int64_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() > kLongestText) throw RowError("the text is longer than 256 MiB");
  const size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string_view::npos) throw RowError("the text is not UTF-8, at byte " + std::to_string(invalid));

  std::vector<int64_t> ids;
  Bpe::Scratch scratch;
  const auto encode_words = [&](std::string_view part) {
    for (size_t begin = 0; begin < part.size();) {
      const size_t end = word_end(part, begin);
      encode_word(part.substr(begin, end - begin), scratch, ids);
      begin = end;
    }
  };
  encode_around(added_, text, ids, [&](std::string_view part) {
    std::string composed;
    if (may_change_under_nfc(part)) part = composed = to_nfc(part);
    encode_around(added_normalized_, part, ids, encode_words);
  });
  return ids;
}
