#include "tests/server/malformed_requests.hpp"

#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace cogserve {
namespace {

using v1::ChatRequest;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kHuge = std::numeric_limits<float>::max();
constexpr int kMinInt = std::numeric_limits<int32_t>::min();
constexpr int kMaxInt = std::numeric_limits<int32_t>::max();

v1::Message* add_message(ChatRequest* request, v1::Role role) {
  v1::Message* message = request->add_messages();
  message->set_role(role);
  return message;
}

void add_text(ChatRequest* request, v1::Role role, const std::string& text) {
  add_message(request, role)->add_parts()->set_text(text);
}

ChatRequest good_request() {
  ChatRequest request;
  add_text(&request, v1::ROLE_USER, "What is in the picture?");
  request.mutable_stopping()->set_max_tokens(4);
  return request;
}

class Table {
 public:
  // A good request with one thing changed.
  void add(const std::string& name, const std::string& reason, const std::string& field,
           const std::function<void(ChatRequest*)>& change) {
    MalformedRequest entry;
    entry.name = name;
    entry.request = good_request();
    change(&entry.request);
    entry.reason = reason;
    entry.field = field;
    entries_.push_back(std::move(entry));
  }

  // A conversation of its own.
  void add_conversation(const std::string& name, const std::string& reason,
                        const std::string& field, const std::function<void(ChatRequest*)>& build) {
    add(name, reason, field, [&build](ChatRequest* request) {
      request->clear_messages();
      build(request);
    });
  }

  MalformedRequest& last() { return entries_.back(); }
  std::vector<MalformedRequest> take() { return std::move(entries_); }

 private:
  std::vector<MalformedRequest> entries_;
};

void add_names(Table* table) {
  int count = 0;
  for (const std::string& id :
       {std::string(65, 'a'), std::string(100000, 'b'), std::string("a b"), std::string("a\nb"),
        std::string("a\r\nevent=forged"), std::string("id/../x"), std::string("\0", 1),
        std::string("ü"), std::string("\xe6\x9d\xa1"), std::string("a;b"), std::string("\"x\""),
        std::string("a\x7f"), std::string("a:b"), std::string(" ")}) {
    table->add("request_id " + std::to_string(count++), "REQUEST_ID", "request_id",
               [&id](ChatRequest* request) { request->set_request_id(id); });
  }
  for (const std::string model :
       {"other", "Fake", "fake ", " fake", "fake/../x", "FAKE", "-", "../../etc/passwd"}) {
    table->add("model " + model, "MODEL_NOT_FOUND", "model",
               [&model](ChatRequest* request) { request->set_model(model); });
    table->last().code = absl::StatusCode::kNotFound;
  }
  table->add("model of a megabyte", "MODEL_NOT_FOUND", "model",
             [](ChatRequest* request) { request->set_model(std::string(1 << 20, 'm')); });
  table->last().code = absl::StatusCode::kNotFound;
  for (const int value : {4, 5, 100, -1, kMaxInt, kMinInt}) {
    table->add("template " + std::to_string(value), "TEMPLATE", "template",
               [value](ChatRequest* request) {
                 request->set_template_(static_cast<v1::Template>(value));
               });
  }
}

void add_roles(Table* table) {
  const auto roles = [table](const std::string& name, const std::string& reason,
                             const std::string& field, const std::vector<v1::Role>& order) {
    table->add_conversation(name, reason, field, [&order](ChatRequest* request) {
      for (const v1::Role role : order) add_text(request, role, "text");
    });
  };
  constexpr v1::Role kSystem = v1::ROLE_SYSTEM;
  constexpr v1::Role kUser = v1::ROLE_USER;
  constexpr v1::Role kModel = v1::ROLE_ASSISTANT;
  roles("system alone", "SYSTEM_ROLE", "messages[0].role", {kSystem});
  roles("system first", "SYSTEM_ROLE", "messages[0].role", {kSystem, kUser});
  roles("system second", "SYSTEM_ROLE", "messages[1].role", {kUser, kSystem, kUser});
  roles("system last", "SYSTEM_ROLE", "messages[3].role", {kUser, kModel, kUser, kSystem});
  roles("assistant first", "ROLE_ORDER", "messages[0].role", {kModel});
  roles("assistant first, then user", "ROLE_ORDER", "messages[0].role", {kModel, kUser});
  roles("two users", "ROLE_ORDER", "messages[1].role", {kUser, kUser});
  roles("two users later", "ROLE_ORDER", "messages[3].role", {kUser, kModel, kUser, kUser});
  roles("two assistants", "ROLE_ORDER", "messages[2].role", {kUser, kModel, kModel});
  roles("assistant last", "ROLE_ORDER", "messages[1].role", {kUser, kModel});
  roles("assistant last of four", "ROLE_ORDER", "messages[3].role", {kUser, kModel, kUser, kModel});
  roles("role missing", "ROLE", "messages[0].role", {v1::ROLE_UNSPECIFIED});
  for (const int role : {4, -1, 77, kMaxInt, kMinInt}) {
    roles("role " + std::to_string(role), "ROLE", "messages[2].role",
          {kUser, kModel, static_cast<v1::Role>(role)});
  }
}

void add_messages(Table* table) {
  table->add_conversation("no messages", "MESSAGES", "messages", [](ChatRequest*) {});
  for (const int count : {65, 66, 67, 129, 10001}) {
    table->add_conversation(std::to_string(count) + " messages", "MESSAGES", "messages",
                            [count](ChatRequest* request) {
                              for (int i = 0; i < count; ++i) {
                                add_text(request, i % 2 ? v1::ROLE_ASSISTANT : v1::ROLE_USER, "x");
                              }
                            });
  }
  table->add_conversation("no parts", "EMPTY_PROMPT", "messages[0].parts",
                          [](ChatRequest* request) { add_message(request, v1::ROLE_USER); });
  table->add_conversation("empty text", "EMPTY_PROMPT", "messages[0].parts",
                          [](ChatRequest* request) { add_text(request, v1::ROLE_USER, ""); });
  table->add_conversation("empty follow-up", "EMPTY_PROMPT", "messages[2].parts",
                          [](ChatRequest* request) {
                            add_text(request, v1::ROLE_USER, "x");
                            add_text(request, v1::ROLE_ASSISTANT, "");
                            add_text(request, v1::ROLE_USER, "");
                          });
  table->add("part without kind", "PART_EMPTY", "messages[0].parts[1]",
             [](ChatRequest* request) { request->mutable_messages(0)->add_parts(); });
  for (const int parts : {65, 5000}) {
    table->add(std::to_string(parts) + " parts", "PARTS", "messages[0].parts",
               [parts](ChatRequest* request) {
                 while (request->messages(0).parts_size() < parts) {
                   request->mutable_messages(0)->add_parts()->set_text("x");
                 }
               });
  }
  for (const int bytes : {1, 1000, 1 << 20}) {
    table->add("prompt over by " + std::to_string(bytes), "PROMPT_BYTES",
               "messages[0].parts[0].text", [bytes](ChatRequest* request) {
                 request->mutable_messages(0)->mutable_parts(0)->set_text(
                     std::string((256 << 10) + bytes, 'x'));
               });
  }
  table->add_conversation("prompt over in the sum", "PROMPT_BYTES", "messages[2].parts[0].text",
                          [](ChatRequest* request) {
                            add_text(request, v1::ROLE_USER, std::string(128 << 10, 'x'));
                            add_text(request, v1::ROLE_ASSISTANT, std::string(128 << 10, 'x'));
                            add_text(request, v1::ROLE_USER, "y");
                          });
  table->add_conversation("base with history", "BASE_HISTORY", "messages",
                          [](ChatRequest* request) {
                            add_text(request, v1::ROLE_USER, "x");
                            add_text(request, v1::ROLE_ASSISTANT, "y");
                            add_text(request, v1::ROLE_USER, "z");
                            request->set_template_(v1::TEMPLATE_BASE);
                          });
}

void add_images(Table* table) {
  const auto add_image = [](ChatRequest* request, int message, size_t bytes) {
    request->mutable_messages(message)->add_parts()->set_image(std::string(bytes, 'i'));
  };
  table->add("two images in a message", "IMAGE_COUNT", "messages[0].parts[2].image",
             [&](ChatRequest* request) {
               add_image(request, 0, 10);
               add_image(request, 0, 10);
             });
  table->add("image too large", "IMAGE_TOO_LARGE", "messages[0].parts[1].image",
             [&](ChatRequest* request) { add_image(request, 0, (10 << 20) + 1); });
  table->add_conversation("image in each question", "IMAGE_COUNT", "messages[2].parts[1].image",
                          [&](ChatRequest* request) {
                            add_text(request, v1::ROLE_USER, "x");
                            add_image(request, 0, 10);
                            add_text(request, v1::ROLE_ASSISTANT, "y");
                            add_text(request, v1::ROLE_USER, "z");
                            add_image(request, 2, 10);
                          });
  table->add_conversation("image of the assistant", "IMAGE_ROLE", "messages[1].parts[1].image",
                          [&](ChatRequest* request) {
                            add_text(request, v1::ROLE_USER, "x");
                            add_text(request, v1::ROLE_ASSISTANT, "y");
                            add_image(request, 1, 10);
                            add_text(request, v1::ROLE_USER, "z");
                          });
}

void add_sampling(Table* table) {
  struct Field {
    const char* name;
    void (v1::Sampling::*set)(float);
    std::vector<float> bad;
  };
  const Field fields[] = {
      {"temperature", &v1::Sampling::set_temperature, {-1, -0.001f, 2.001f, 1e6f}},
      {"top_p", &v1::Sampling::set_top_p, {0, -0.0f, -0.5f, 1.001f, 5}},
      {"min_p", &v1::Sampling::set_min_p, {-0.001f, 1.001f, 3}},
      {"repetition_penalty",
       &v1::Sampling::set_repetition_penalty,
       {0, -1, 0.0999f, 2.001f, 1e-40f}},
      {"presence_penalty", &v1::Sampling::set_presence_penalty, {-2.001f, 2.001f, 10}},
      {"frequency_penalty", &v1::Sampling::set_frequency_penalty, {-2.001f, 2.001f, -10}},
  };
  for (const Field& field : fields) {
    std::vector<float> values = field.bad;
    values.insert(values.end(), {kNan, -kNan, kInf, -kInf, kHuge, -kHuge});
    for (const float value : values) {
      table->add(std::string(field.name) + " " + std::to_string(value), "PARAM_RANGE",
                 std::string("sampling.") + field.name, [&field, value](ChatRequest* request) {
                   (request->mutable_sampling()->*field.set)(value);
                 });
    }
  }
  for (const int value : {-1, 1025, 128256, kMaxInt, kMinInt}) {
    table->add("top_k " + std::to_string(value), "PARAM_RANGE", "sampling.top_k",
               [value](ChatRequest* request) { request->mutable_sampling()->set_top_k(value); });
  }
  for (const int value : {-1, 21, 128256, kMaxInt, kMinInt}) {
    table->add("logprobs " + std::to_string(value), "PARAM_RANGE", "logprobs",
               [value](ChatRequest* request) { request->set_logprobs(value); });
  }
}

void add_stopping(Table* table, int vocab_size) {
  for (const int value : {0, -1, 4097, 8193, kMaxInt, kMinInt}) {
    table->add(
        "max_tokens " + std::to_string(value), "PARAM_RANGE", "stopping.max_tokens",
        [value](ChatRequest* request) { request->mutable_stopping()->set_max_tokens(value); });
  }
  for (const int value : {-1, 5, 4097, kMaxInt, kMinInt}) {
    table->add(
        "min_tokens " + std::to_string(value), "PARAM_RANGE", "stopping.min_tokens",
        [value](ChatRequest* request) { request->mutable_stopping()->set_min_tokens(value); });
  }
  for (const int count : {5, 64, 500000}) {
    table->add(std::to_string(count) + " stop strings", "STOP_COUNT", "stopping.stop",
               [count](ChatRequest* request) {
                 for (int i = 0; i < count; ++i) request->mutable_stopping()->add_stop("x");
               });
  }
  for (const size_t bytes : {size_t{0}, size_t{65}, size_t{1} << 20}) {
    table->add("stop of " + std::to_string(bytes), "STOP_LENGTH", "stopping.stop[1]",
               [bytes](ChatRequest* request) {
                 request->mutable_stopping()->add_stop("fine");
                 request->mutable_stopping()->add_stop(std::string(bytes, 's'));
               });
  }
  for (const int count : {17, 1000000}) {
    table->add(std::to_string(count) + " stop ids", "STOP_COUNT", "stopping.stop_token_ids",
               [count](ChatRequest* request) {
                 for (int i = 0; i < count; ++i) request->mutable_stopping()->add_stop_token_ids(1);
               });
  }
  for (const int id : {-1, vocab_size, vocab_size + 1, 128256, kMaxInt, kMinInt}) {
    table->add("stop id " + std::to_string(id), "TOKEN_ID_RANGE", "stopping.stop_token_ids[1]",
               [id](ChatRequest* request) {
                 request->mutable_stopping()->add_stop_token_ids(0);
                 request->mutable_stopping()->add_stop_token_ids(id);
               });
  }
}

}  // namespace

std::vector<MalformedRequest> malformed_requests(int vocab_size) {
  Table table;
  add_names(&table);
  add_roles(&table);
  add_messages(&table);
  add_images(&table);
  add_sampling(&table);
  add_stopping(&table, vocab_size);
  return table.take();
}

std::vector<MalformedRequest> unpreparable_requests(int max_model_len) {
  Table table;
  for (const int words : {max_model_len, 2 * max_model_len}) {
    table.add("prompt of " + std::to_string(words) + " words", "CONTEXT_LENGTH", "messages",
              [words](ChatRequest* request) {
                std::string text;
                for (int i = 0; i < words; ++i) text += " x";
                request->mutable_messages(0)->mutable_parts(0)->set_text(text);
              });
  }
  table.add(
      "no room for max_tokens", "CONTEXT_LENGTH", "stopping.max_tokens",
      [&](ChatRequest* request) { request->mutable_stopping()->set_max_tokens(max_model_len); });
  table.add("no room for min_tokens", "CONTEXT_LENGTH", "stopping.min_tokens",
            [&](ChatRequest* request) {
              request->mutable_stopping()->clear_max_tokens();
              request->mutable_stopping()->set_min_tokens(max_model_len);
            });
  const std::vector<std::pair<std::string, std::string>> pictures = {
      {"empty", ""},
      {"text", "this is no picture"},
      {"GIF", "GIF89a\x01\x01"},
      {"BMP", "BM\x10\x10"},
      {"TIFF", std::string("II*\0\x08\0\0\0", 8)},
      {"SVG", "<svg xmlns='http://www.w3.org/2000/svg'/>"},
      {"PDF", "%PDF-1.7"},
      {"VRT", "<VRTDataset rasterXSize='8' rasterYSize='8'></VRTDataset>"},
      {"URL", "http://127.0.0.1/picture.png"},
      {"zeros", std::string(1000, '\0')},
  };
  for (const auto& [name, bytes] : pictures) {
    table.add("picture: " + name, "IMAGE_FORMAT", "messages[0].parts[1].image",
              [&bytes = bytes](ChatRequest* request) {
                request->mutable_messages(0)->add_parts()->set_image(bytes);
              });
  }
  return table.take();
}

}  // namespace cogserve
