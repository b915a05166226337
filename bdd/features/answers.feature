Feature: Answers of a kind that was asked for
  A client that needs JSON, a call of a function, several answers or figures gets just that from any model.

  Scenario Outline: an answer that must be JSON obeys its schema, <how>
    Given an integrated cluster with a worker
    When I ask "Describe a bee." for JSON with a "name" and a number of "legs", <how>
    Then the answer is JSON with a "name" and a number of "legs"

    Examples:
      | how       |
      | whole     |
      | in pieces |

  Scenario: a function that must be called is called, and the conversation goes on with its result
    Given an integrated cluster with a worker
    When I ask "What is the weather in Paris?" and demand a call of "get_weather" with a "city"
    Then the answer is a call of "get_weather" with a "city"
    When I tell it the result "18 degrees"
    Then the answer is some text

  Scenario: several answers come from one prompt
    Given an integrated cluster with a worker
    When I ask "Tell me about bees.", for 3 answers
    Then 3 answers came, and the prompt was counted once

  Scenario: what the model cannot do is said
    Given an integrated cluster with a worker
    When I ask the chat model for the vector of "bees"
    Then the status is 400
    And the error names the model
