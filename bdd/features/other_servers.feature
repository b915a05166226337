Feature: Servers of others
  A server that speaks OpenAI's API, here another rbee, joins the pool as it is.

  Scenario: its model answers, and is known after the queen was killed
    Given an integrated cluster
    And somebody else's server with the demo model
    When I run "rbee-keeper worker attach --url $SERVER --name nas"
    Then it succeeds
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And 1 worker runs on "nas"
    When I run "rbee-keeper worker list --json"
    Then its stdout is a JSON array of 1
    When the queen is killed and started again
    And I ask "What is the capital of Japan?"
    Then the answer is some text
    When I run "rbee-keeper worker detach nas"
    Then it succeeds
    And 0 workers run on "nas"

  Scenario: what it serves is printed, and the keeper asks it
    Given an integrated cluster
    And somebody else's server with the demo model
    When I run "rbee-keeper worker attach --url $SERVER/v1 --name nas --model smollm2-135m --slots 2"
    Then it succeeds
    When I run "rbee-keeper status"
    Then its stdout mentions "nas-smollm2-135m"
    When I run "rbee-keeper infer --model smollm2-135m 'What is the capital of Japan?' --temperature 0 --max-tokens 32"
    Then its stdout is the text that the API gives
    When somebody else's server ends
    Then the queen lists 1 worker that is failed
    When I run "rbee-keeper worker list"
    Then its stdout mentions "cannot be reached"
