#include "framing.h"

#include <algorithm>
#include <charconv>
#include <cctype>
#include <utility>

namespace {

constexpr size_t kLongestHead = 16 * 1024, kLongestTarget = 2048, kLongestChunkLine = 256;  // bytes
constexpr size_t kMostHeaders = 100;
constexpr size_t kChunkLines = 64 * 1024;  // bytes that they may have beyond the body's: they are held with it
constexpr std::string_view kLineEnd = "\r\n", kHeadEnd = "\r\n\r\n";

bool is_token_byte(char byte) {
  constexpr std::string_view marks = "!#$%&'*+-.^_`|~";
  return std::isalnum(static_cast<unsigned char>(byte)) || marks.find(byte) != marks.npos;
}

bool holds_control(std::string_view line) {
  const auto is_control = [](char byte) { return (byte >= 0 && byte < 0x20 && byte != '\t') || byte == 0x7F; };
  return std::any_of(line.begin(), line.end(), is_control);
}

bool is_visible(char byte) { return byte > 0x20 && byte < 0x7F; }

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& byte : result) byte = static_cast<char>(std::tolower(static_cast<unsigned char>(byte)));
  return result;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

/// A whole number in digits of the base and nothing else; 15 of them at most.
bool read_number(std::string_view text, int base, size_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return error == std::errc() && end == text.data() + text.size() && text.size() <= 15;
}

}  // namespace

RequestFraming::State RequestFraming::fail(int status, std::string error) {
  part_ = Part::kEnd;
  status_ = status;
  error_ = std::move(error);
  return State::kBad;
}

bool RequestFraming::is_longer(size_t most, std::string_view bytes, size_t end, std::string_view mark) const {
  return end != bytes.npos ? end - at_ > most : bytes.size() - at_ > most + mark.size() - 1;
}

RequestFraming::State RequestFraming::see(std::string_view bytes) {
  if (part_ == Part::kEnd) return status_ != 0 ? State::kBad : State::kWhole;
  if (part_ == Part::kHead) {
    // Empty lines before a request are passed over, as the standard has it; their number is bounded by the head's.
    while (at_ < kLongestHead && bytes.substr(at_, kLineEnd.size()) == kLineEnd) at_ += kLineEnd.size();
    const size_t end = bytes.find(kHeadEnd, searched_ >= at_ + 3 ? searched_ - 3 : at_);
    searched_ = bytes.size();
    if (is_longer(kLongestHead, bytes, end, kHeadEnd)) return fail(431, "the headers have more than 16384 bytes");
    if (end == bytes.npos) return State::kMore;
    const std::string_view head = bytes.substr(at_, end + 2 - at_);
    at_ = end + 4;
    if (read_head(head) == State::kBad) return State::kBad;
    part_ = chunked_ ? Part::kChunkSize : Part::kBody;
  }
  if (part_ != Part::kBody) return read_chunks(bytes);
  if (bytes.size() - at_ < missing_) return State::kMore;
  body_ = bytes.substr(at_, missing_);
  at_ += missing_;
  part_ = Part::kEnd;
  return State::kWhole;
}

RequestFraming::State RequestFraming::read_head(std::string_view head) {
  size_t count = 0;
  for (size_t begin = 0; begin < head.size(); ++count) {
    const size_t end = head.find(kLineEnd, begin);
    const std::string_view line = head.substr(begin, end - begin);
    if (holds_control(line)) return fail(400, "a header holds a control character");
    if (count > kMostHeaders) return fail(431, "there are more than 100 headers");
    if ((count == 0 ? read_request_line(line) : read_header(line)) == State::kBad) return State::kBad;
    begin = end + kLineEnd.size();
  }
  if (chunked_ && has_length_) return fail(400, "both Content-Length and Transfer-Encoding are given");
  return State::kMore;
}

RequestFraming::State RequestFraming::read_request_line(std::string_view line) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == line.npos || first == last) return fail(400, "the request line is not METHOD TARGET HTTP/1.1");
  method_ = line.substr(0, first);
  target_ = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (method_.empty() || !std::all_of(method_.begin(), method_.end(), is_token_byte)) {
    return fail(400, "the method is no word");
  }
  if (target_.size() > kLongestTarget) return fail(414, "the target has more than 2048 bytes");
  if (target_.empty() || target_[0] != '/' || !std::all_of(target_.begin(), target_.end(), is_visible)) {
    return fail(400, "the target is no path");
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return fail(505, "the version is not HTTP/1.1");
  closes_ = version == "HTTP/1.0";
  return State::kMore;
}

RequestFraming::State RequestFraming::read_header(std::string_view line) {
  const std::string_view written = line.substr(0, line.find(':'));
  if (written.empty() || written.size() == line.size() || !std::all_of(written.begin(), written.end(), is_token_byte)) {
    return fail(400, "a header is not NAME: VALUE");
  }
  const std::string name = lower(written);
  const std::string_view value = trimmed(line.substr(written.size() + 1));
  if (name == "content-length") {
    size_t length = 0;
    if (!read_number(value, 10, length) || value[0] == '-') return fail(400, "Content-Length is no number");
    if (has_length_ && length != missing_) return fail(400, "two Content-Length headers differ");
    if (length > most_body_) return fail(413, "the body has more than " + std::to_string(most_body_) + " bytes");
    has_length_ = true;
    missing_ = length;
  } else if (name == "transfer-encoding") {
    if (chunked_ || lower(value) != "chunked") return fail(501, "Transfer-Encoding is not chunked");
    chunked_ = true;
  } else if (name == "connection") {
    closes_ |= lower(value).find("close") != std::string::npos;
  } else if (name == "expect") {
    if (lower(value) != "100-continue") return fail(417, "Expect is not 100-continue");
    expects_ = true;
  } else if (name == "content-encoding") {
    if (lower(value) != "identity") return fail(415, "Content-Encoding is not taken; send the body as it is");
  } else if (name == "authorization") {
    if (!authorization_.empty()) return fail(400, "two Authorization headers are given");
    authorization_ = value;
  }
  return State::kMore;
}

RequestFraming::State RequestFraming::read_chunks(std::string_view bytes) {
  while (true) {
    if (part_ == Part::kChunk) {
      const size_t count = std::min(missing_, bytes.size() - at_);
      body_ += bytes.substr(at_, count);
      at_ += count;
      missing_ -= count;
      if (missing_ > 0) return State::kMore;
      part_ = Part::kChunkEnd;
    }
    if (part_ == Part::kChunkEnd) {
      const std::string_view next = bytes.substr(at_, kLineEnd.size());
      if (next != kLineEnd.substr(0, next.size())) return fail(400, "a chunk is longer than it says");
      if (next.size() < kLineEnd.size()) return State::kMore;
      at_ += kLineEnd.size();
      part_ = Part::kChunkSize;
    }
    const size_t end = bytes.find(kLineEnd, at_);
    if (is_longer(kLongestChunkLine, bytes, end, kLineEnd)) return fail(400, "a chunk's line has more than 256 bytes");
    if (end == bytes.npos) return State::kMore;
    const std::string_view line = bytes.substr(at_, end - at_);
    at_ = end + kLineEnd.size();
    // What ends its lines at a bare LF would see another end of the request.
    if (holds_control(line)) return fail(400, "a chunk's line or a trailer holds a control character");
    if (part_ == Part::kChunkSize && (chunk_line_bytes_ += line.size()) > kChunkLines + body_.size()) {
      return fail(400, "the lines of the chunks have more bytes than the body");
    }
    if (part_ == Part::kChunkSize) {
      if (read_chunk_size(line) == State::kBad) return State::kBad;
    } else if (line.empty()) {  // trailers are passed over
      part_ = Part::kEnd;
      return State::kWhole;
    } else if ((trailer_bytes_ += line.size()) > kLongestHead) {
      return fail(431, "the trailers have more than 16384 bytes");
    }
  }
}

RequestFraming::State RequestFraming::read_chunk_size(std::string_view line) {
  const std::string_view digits = trimmed(line.substr(0, line.find(';')));
  if (digits.empty() || digits[0] == '-' || !read_number(digits, 16, missing_)) {
    return fail(400, "a chunk's size is no hexadecimal number");
  }
  if (missing_ > most_body_ - body_.size()) {
    return fail(413, "the body has more than " + std::to_string(most_body_) + " bytes");
  }
  part_ = missing_ == 0 ? Part::kTrailer : Part::kChunk;
  return State::kMore;
}

bool RequestFraming::take_expectation() { return has_head() && status_ == 0 && std::exchange(expects_, false); }

std::string RequestFraming::request() const {
  std::string text = method_ + " " + target_ + " HTTP/1.1\r\n";
  if (!body_.empty() || method_ == "POST") text += "Content-Length: " + std::to_string(body_.size()) + "\r\n";
  return text + "\r\n" + body_;
}
