Feature: Prompts that were computed before
  A worker computes the beginning that prompts share once: for the next question of a conversation, and for everybody
  who has the same instructions. The usage tells how much that was.

  Scenario: a long prompt that comes again is not computed again
    Given an integrated cluster with a worker
    When I ask a long question
    Then little of the prompt was known
    When I ask the same long question again
    Then all of the prompt but its end was known

  Scenario: a conversation goes on where it was
    Given an integrated cluster with a worker
    When I ask a long question
    And I go on with the conversation
    Then all of the first prompt was known

  Scenario: people with the same instructions share them, also at once
    Given an integrated cluster with a worker
    When 4 people with the same long instructions ask at once
    Then all but one had the instructions computed for them
    And every slot is free within 10 seconds

  Scenario: more people than slots are served one after another
    Given an integrated cluster with a worker
    When 12 people ask "What is a lighthouse?" at once
    Then each of the 12 answers is some text
    And every slot is free within 10 seconds

  Scenario Outline: a worker that promises it gives the same answer, whatever else it does, <where>
    Given <where> cluster with a worker that was told "--batch-invariant"
    When I ask for a deterministic answer
    And 4 people with the same long instructions ask at once, beside one who wants that answer again
    Then both deterministic answers have the same text

    Examples:
      | where          |
      | an integrated  |
      | a distributed  |

  Scenario: a worker that cannot promise it says so
    Given an integrated cluster with a worker
    When I ask for a deterministic answer in vain
    Then the status is 400
    And the error code is "not_deterministic"
