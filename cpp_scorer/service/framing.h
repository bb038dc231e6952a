#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// Finds the end of an HTTP/1 request in the bytes of a connection as they come, before anything else looks at them:
/// what is not plainly a request, or larger than it may be, goes no further. Strict, since two readers that see two ends of
/// one request are an attack.
class RequestFraming {
 public:
  enum class State { kMore, kWhole, kBad };

  /// `most_body`: bytes of a body, once decoded.
  explicit RequestFraming(size_t most_body) : most_body_(most_body) {}

  /// Looks at the connection's bytes from the request's first on: those of the last call, and more. Once the answer is
  /// not kMore it stays.
  State see(std::string_view bytes);

  /// Of kBad: the status and a line that says why.
  int status() const { return status_; }
  const std::string& error() const { return error_; }

  /// Of kWhole: how many of the bytes are the request's.
  size_t size() const { return at_; }
  /// Of kWhole: the request as the router takes it, with the body decoded, and of the headers only the body's length.
  std::string request() const;
  std::string_view method() const { return method_; }
  std::string_view authorization() const { return authorization_; }
  /// Whether the connection ends with this request.
  bool closes() const { return closes_; }

  /// Whether the client waits for "100 Continue" before it sends the body; true once.
  bool take_expectation();
  /// Whether the head is whole.
  bool has_head() const { return part_ != Part::kHead; }

 private:
  enum class Part { kHead, kBody, kChunkSize, kChunk, kChunkEnd, kTrailer, kEnd };

  State read_head(std::string_view head);
  State read_request_line(std::string_view line);
  State read_header(std::string_view line);
  State read_chunks(std::string_view bytes);
  State read_chunk_size(std::string_view line);
  /// Whether more than `most` bytes stand before `end`, where `mark` begins; npos: it may begin with the last bytes.
  bool is_longer(size_t most, std::string_view bytes, size_t end, std::string_view mark) const;
  State fail(int status, std::string error);

  size_t most_body_;
  Part part_ = Part::kHead;
  size_t at_ = 0;        // up to where the bytes are read
  size_t searched_ = 0;  // up to where no head ends
  size_t missing_ = 0;   // of a body or chunk
  std::string method_, target_, authorization_, body_;
  bool has_length_ = false, chunked_ = false, closes_ = false, expects_ = false;
  size_t trailer_bytes_ = 0, chunk_line_bytes_ = 0;
  int status_ = 0;
  std::string error_;
};
