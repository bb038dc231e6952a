// Requests in the bytes of a connection: however these are cut, the same requests are found, or the same fault.

#include "framing.h"

#include <algorithm>

#include "check.h"

namespace {

constexpr size_t kMostBody = 4096;

/// What becomes of the bytes where they come in pieces of `piece`: the request and what it takes of them, a status, or
/// that more is missing.
std::string seen(const std::string& bytes, size_t piece) {
  RequestFraming framing(kMostBody);
  auto state = RequestFraming::State::kMore;
  for (size_t end = 0; state == RequestFraming::State::kMore && end < bytes.size();) {
    end = std::min(end + piece, bytes.size());
    state = framing.see(std::string_view(bytes).substr(0, end));
  }
  if (state == RequestFraming::State::kMore) return "more";
  if (state == RequestFraming::State::kBad) return std::to_string(framing.status()) + " " + framing.error();
  return framing.request() + "|" + std::to_string(framing.size());
}

std::string of_any_pieces(const std::string& bytes) {
  const std::string whole = seen(bytes, bytes.size());
  for (const size_t piece : {1, 2, 3, 5, 64}) CHECK_EQUAL(seen(bytes, piece), whole);
  return whole;
}

std::string with_header(size_t head_bytes) {
  const std::string begin = "GET / HTTP/1.1\r\nX: ";
  return begin + std::string(head_bytes - begin.size(), 'x') + "\r\n\r\n";
}

std::string with_chunks(const std::string& chunks) {
  return "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks;
}

void a_request_ends_where_it_says() {
  const std::string get = "GET / HTTP/1.1\r\n\r\n", post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
  CHECK_EQUAL(of_any_pieces(get + post), get + "|18");
  CHECK_EQUAL(of_any_pieces(post + get), post + "|" + std::to_string(post.size()));
  CHECK_EQUAL(of_any_pieces(with_chunks("3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n")), post + "|70");
  CHECK_EQUAL(of_any_pieces("\r\n\r\n" + get), get + "|22");  // empty lines before it are passed over
  CHECK_EQUAL(of_any_pieces(post.substr(0, post.size() - 1)), "more");
}

void a_limit_is_the_same_wherever_the_bytes_are_cut() {
  const std::string get = "GET / HTTP/1.1\r\n\r\n|";
  CHECK_EQUAL(of_any_pieces(with_header(16384)), get + "16388");
  CHECK_EQUAL(of_any_pieces(with_header(16385)).substr(0, 4), "431 ");
  CHECK_EQUAL(of_any_pieces(with_header(16385).substr(0, 16385 + 4)).substr(0, 4), "431 ");
  const auto with_extension = [](size_t line_bytes) {
    return with_chunks("1;" + std::string(line_bytes - 2, 'x') + "\r\na\r\n0\r\n\r\n");
  };
  CHECK_EQUAL(of_any_pieces(with_extension(256)).substr(0, 4), "POST");
  CHECK_EQUAL(of_any_pieces(with_extension(257)).substr(0, 4), "400 ");
  // Lines of chunks are held while the body comes, and so are bounded too.
  std::string chunks;
  for (int i = 0; i < 300; ++i) chunks += "1;" + std::string(254, 'x') + "\r\na\r\n";
  CHECK_EQUAL(seen(with_chunks(chunks), 4096), "400 the lines of the chunks have more bytes than the body");
}

void what_ends_a_chunk_is_a_line_end_alone() {
  for (const char* end : {"x", "xy\r\n", "\rx\r\n", "\n"}) {
    const std::string chunks = "1\r\na" + std::string(end) + "0\r\n\r\n";
    CHECK_EQUAL(of_any_pieces(with_chunks(chunks)), "400 a chunk is longer than it says");
  }
}

/// A proxy that ends lines at a bare line feed would see another end of the request, and the next one begin within it.
void a_chunks_line_or_a_trailer_holds_no_control_character() {
  for (const char byte : {'\n', '\r', '\0', '\x7f'}) {
    const std::string control(1, byte);
    const std::string extension = "1;" + control + "b\r\na\r\n0\r\n\r\n";
    const std::string trailer = "1\r\na\r\n0\r\nX: y" + control + "z\r\n\r\n";
    for (const std::string& chunks : {extension, trailer}) {
      CHECK_EQUAL(of_any_pieces(with_chunks(chunks)), "400 a chunk's line or a trailer holds a control character");
    }
  }
}

}  // namespace

int main() {
  a_request_ends_where_it_says();
  a_limit_is_the_same_wherever_the_bytes_are_cut();
  what_ends_a_chunk_is_a_line_end_alone();
  a_chunks_line_or_a_trailer_holds_no_control_character();
}
