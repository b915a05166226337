Feature: Streaming
  The answer is shown while it is written.

  Scenario: the text comes in pieces, while the rest is still being written
    Given an integrated cluster with a worker
    When I ask "Tell me about bees." in pieces, for 64 tokens
    Then at least 20 pieces came
    And the first piece came in the first half of the time
    And the stream ended with a finish reason and [DONE]

  Scenario: the usage comes last when it is asked for
    Given an integrated cluster with a worker
    When I ask "What is the capital of Japan?" in pieces, with usage
    Then the last chunk holds the usage and no choice
    And its usage adds up

  Scenario: no usage comes when nobody asked
    Given an integrated cluster with a worker
    When I ask "What is the capital of Japan?" in pieces
    Then no chunk holds a usage

  Scenario: characters of several bytes are never cut
    Given an integrated cluster with a worker
    When I ask "Repeat exactly: 🐝🐝🐝 naïve café 日本語" in pieces
    Then no piece holds a broken character

  Scenario: max_tokens ends the answer
    Given an integrated cluster with a worker
    When I ask "Tell me about bees." in pieces, for 5 tokens
    Then the finish reason is "length"
    When I ask "Tell me about bees.", for 5 tokens
    Then the answer has 5 tokens

  Scenario: a stop text ends the answer before it
    Given an integrated cluster with a worker
    When I let the model continue "1, 2, 3, 4, 5, 6," until "9"
    Then the answer is some text
    And the answer does not contain "9"
