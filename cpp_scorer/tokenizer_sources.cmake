set(TOKENIZER_SOURCES added_tokens.cpp bpe.cpp normalize.cpp pretokenize.cpp tokenizer.cpp tokenizer_forms.cpp
  tokenizer_json.cpp tokenizer_reader.cpp unicode.cpp utf8.cpp word_cache.cpp)
