Feature: The operator's own rules
  A script beside the configuration says which worker may take a request, without a restart.

  Scenario: a worker that the rules refuse gets nothing until the rules are gone
    Given an integrated cluster with a worker
    When I write the rules
      """
      fn filter(request, worker) { false }
      """
    Then soon a question is refused with 503 "refused_by_rules"
    And the last refusal names no time to come again
    When I remove the rules
    Then soon a question is answered

  Scenario: of two workers the one that the rules prefer answers
    Given an integrated cluster with the demo model
    When I spawn a worker
    And I spawn a worker
    Then the hive lists 2 workers that are ready
    When I write rules that avoid the worker of the last answer
    Then the next 4 answers come from the other worker

  Scenario: rules that never end do not stop anybody and are told of
    Given an integrated cluster with a worker
    When I write the rules
      """
      fn filter(request, worker) { loop { } }
      """
    Then soon the queen counts a failure of the rules
    And each question meanwhile was answered
