Feature: First prompt
  Somebody has started rbee, imported a model and spawned a worker.
  Any client that speaks OpenAI's API gets an answer.

  Scenario Outline: a model answers in an <topology> cluster
    Given an <topology> cluster with a worker
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And the answer is from the model "smollm2-135m"
    And its usage adds up

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: the same question has the same answer, whole or in pieces
    Given an integrated cluster with a worker
    When I ask "Name three colours."
    And I ask "Name three colours." in pieces
    Then both answers have the same text

  Scenario: four people ask at once
    Given an integrated cluster with a worker
    When 4 people ask "What is the capital of Japan?" at once
    Then each of the 4 answers is some text

  Scenario: a text is continued without any template
    Given an integrated cluster with a worker
    When I let the model continue "1, 2, 3, 4, 5, 6,"
    Then the answer is some text

  Scenario: the models are listed as OpenAI lists them
    Given an integrated cluster with the demo model
    When I get "/v1/models"
    Then the status is 200
    And the list holds the model "smollm2-135m"
    When I get "/v1/models/smollm2-135m"
    Then the status is 200

  Scenario Outline: the queen of an <topology> cluster tells how it was built
    Given an <topology> cluster
    When I get "/v1/build-info"
    Then the status is 200
    And the build <has> the feature "local-hive"

    Examples:
      | topology    | has      |
      | integrated  | has      |
      | distributed | lacks    |
