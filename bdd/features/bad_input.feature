Feature: Bad input
  What cannot be right is refused with the reason, and never takes a daemon down.

  Scenario: chat requests that cannot be right
    Given an integrated cluster with a worker
    Then each of these bodies for "/v1/chat/completions" is refused:
      | because                     | body                                                                                            | status | code            | param       | mentions     |
      | the JSON has no end         | {"model": "smollm2-135m"                                                                        | 400    | invalid_json    |             | line 1       |
      | it is no JSON               | Hello?                                                                                          | 400    | invalid_json    |             |              |
      | it is empty                 |                                                                                                 | 400    | invalid_json    |             |              |
      | it is a list                | []                                                                                              | 400    |                 |             |              |
      | the model is missing        | {"messages":[{"role":"user","content":"Hi"}]}                                                   | 400    |                 |             | model        |
      | the messages are missing    | {"model":"smollm2-135m"}                                                                        | 400    |                 |             | messages     |
      | there is no message         | {"model":"smollm2-135m","messages":[]}                                                          | 400    |                 | messages    |              |
      | messages is a text          | {"model":"smollm2-135m","messages":"Hi"}                                                        | 400    |                 | messages    |              |
      | a role is unknown           | {"model":"smollm2-135m","messages":[{"role":"robot","content":"Hi"}]}                           | 400    |                 | messages[0].role | assistant |
      | max_tokens is negative      | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"max_tokens":-1}            | 400    |                 | max_tokens  | -1           |
      | max_tokens is zero          | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"max_tokens":0}             | 400    |                 | max_tokens  |              |
      | max_tokens is a text        | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"max_tokens":"ten"}         | 400    |                 | max_tokens  |              |
      | the temperature is too high | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"temperature":9}            | 400    |                 | temperature |              |
      | top_p is negative           | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"top_p":-0.5}               | 400    |                 | top_p       |              |
      | stream is a text            | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"stream":"yes"}             | 400    |                 | stream      |              |
      | there are too many answers  | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"n":17}                     | 400    |                 | n           | 16           |
      | a bias is of no token       | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"logit_bias":{"bee":5}}     | 400    |                 | logit_bias  | token id     |
      | a call of nothing is wanted | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"tool_choice":"required"}   | 400    |                 | tool_choice | tools        |
      | a function has no name      | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"tools":[{"type":"function","function":{}}]} | 400    |                 | tools[0].function.name |              |
      | the form is unknown         | {"model":"smollm2-135m","messages":[{"role":"user","content":"Hi"}],"response_format":{"type":"xml"}} | 400    |                 | response_format.type | json_schema  |
      | the model's name is a path  | {"model":"../../etc/passwd","messages":[{"role":"user","content":"Hi"}]}                        | 404    |                 |             |              |
      | the model is unknown        | {"model":"smollm2-135n","messages":[{"role":"user","content":"Hi"}]}                            | 404    | model_not_found |             | smollm2-135m |
    And queen and hive are healthy

  Scenario: jobs that cannot be right
    Given an integrated cluster
    Then each of these bodies for "/v1/jobs" is refused:
      | because                     | body                                                                        | status | code         | param | mentions    |
      | the operation is unknown    | {"operation":{"WorkerSpwan":{"model":"m"}}}                                 | 400    |              |       | WorkerSpwan |
      | the operation is missing    | {}                                                                          | 400    |              |       | operation   |
      | a field is unknown          | {"operation":{"WorkerSpawn":{"model":"m","devcie":"CPU-0"}}}                | 400    |              |       | devcie      |
      | a field is missing          | {"operation":{"WorkerSpawn":{}}}                                            | 400    |              |       | model       |
      | the device is none          | {"operation":{"WorkerSpawn":{"model":"m","device":"TPU-0"}}}                | 400    |              |       | TPU-0       |
      | the model's name is a path  | {"operation":{"ModelDelete":{"model":"../../etc/passwd"}}}                  | 400    |              |       | model       |
      | slots is negative           | {"operation":{"WorkerSpawn":{"model":"m","slots":-1}}}                      | 400    |              |       | slots       |
      | it is no JSON               | what?                                                                       | 400    | invalid_json |       |             |
    And queen and hive are healthy

  Scenario: what is too large is refused before it is read
    Given an integrated cluster with the demo model
    When I post 50 megabytes to "/v1/chat/completions"
    Then the status is 413
    When I post JSON that is nested 100000 times to "/v1/chat/completions"
    Then the status is 400
    And queen and hive are healthy

  Scenario: paths and methods that do not exist have an error object, too
    Given an integrated cluster
    When I get "/v1/nothing"
    Then the status is 404
    And the answer is an error object
    When I delete "/v1/models"
    Then the status is 405
    And the answer is an error object
    When I get "/v1/models/smollm2"
    Then the status is 404
    And the answer is an error object

  Scenario Outline: a prompt longer than the context is refused with both lengths, <how>
    Given an integrated cluster with a worker
    When I ask a prompt that is longer than the context, <how>
    Then the status is 400
    And the error code is "context_length_exceeded"
    And the error tells the length of the prompt and that of the context

    Examples:
      | how       |
      | whole     |
      | in pieces |

  Scenario: every answer carries a request id, and keeps the one it was given
    Given an integrated cluster
    When I get "/v1/models" with the request id "my-id-1"
    Then the answer has the request id "my-id-1"
    When I get "/v1/models"
    Then the answer has a request id
