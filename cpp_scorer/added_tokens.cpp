#include "added_tokens.h"

#include <algorithm>
#include <utility>

#include "errors.h"
#include "unicode.h"
#include "utf8.h"

namespace {

/// The start of the white space that ends at `end`, not before `from`.
size_t space_begin(std::string_view text, size_t from, size_t end) {
  for (size_t at = end; at > from;) {
    do --at;
    while (at > from && (text[at] & 0xC0) == 0x80);
    size_t next = at;
    if (char_class(next_code_point(text, next)) != kSpace) break;
    end = at;
  }
  return end;
}

size_t space_end(std::string_view text, size_t begin) {
  for (size_t at = begin; at < text.size() && char_class(next_code_point(text, at)) == kSpace;) begin = at;
  return begin;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) { return a.content < b.content; });
  for (size_t index = 0; index < tokens_.size(); ++index) {
    const std::string& content = tokens_[index].content;
    if (content.empty()) throw FatalError("field 'added_tokens': '' is empty");
    if (index > 0 && tokens_[index - 1].content == content) {
      throw FatalError("field 'added_tokens': '" + content + "' is there twice");
    }
    auto& [from, to] = by_first_byte_[static_cast<unsigned char>(content[0])];
    if (to == 0) from = index;
    to = index + 1;
  }
}

/// Narrows the sorted tokens byte by byte to those that the text goes on with.
const AddedTokens::Token* AddedTokens::longest_at(std::string_view text, size_t at) const {
  auto [from, to] = by_first_byte_[static_cast<unsigned char>(text[at])];
  const Token* longest = nullptr;
  for (size_t length = 1; from < to; ++length) {
    if (tokens_[from].content.size() == length) longest = &tokens_[from++];
    if (at + length == text.size()) break;
    const auto less = [&](const Token& token, char byte) {
      return static_cast<unsigned char>(token.content[length]) < static_cast<unsigned char>(byte);
    };
    const auto greater = [&](char byte, const Token& token) {
      return static_cast<unsigned char>(byte) < static_cast<unsigned char>(token.content[length]);
    };
    const auto begin = tokens_.begin() + from, end = tokens_.begin() + to;
    from = std::lower_bound(begin, end, text[at + length], less) - tokens_.begin();
    to = std::upper_bound(begin, end, text[at + length], greater) - tokens_.begin();
  }
  return longest;
}

std::vector<AddedTokens::Match> AddedTokens::find_all(std::string_view text) const {
  std::vector<Match> matches;
  if (tokens_.empty()) return matches;
  size_t taken = 0;
  for (size_t at = 0; at < text.size();) {
    const Token* const token = longest_at(text, at);
    if (!token) {
      ++at;
      continue;
    }
    const size_t begin = token->lstrip ? std::max(taken, space_begin(text, std::min(taken, at), at)) : at;
    at += token->content.size();
    const size_t end = token->rstrip ? space_end(text, at) : at;
    if (begin < end) matches.push_back({begin, end, token->id});  // else all its white space was the last one's
    taken = std::max(begin, end);
  }
  return matches;
}
