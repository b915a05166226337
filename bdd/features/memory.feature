Feature: Memory for workers
  A hive gives its workers no more memory than they may have. A model that is asked for gets the room of one that is
  idle, and of no other.

  Scenario Outline: the idle worker of another model makes room, in an <topology> cluster
    Given an <topology> cluster whose workers may have "380 MiB"
    And the models "first" and "second", of which only one fits
    When I ask the model "first" "What is the capital of Japan?"
    Then the answer is some text
    And the only worker runs the model "first"
    When I ask the model "second" "What is the capital of Japan?"
    Then the answer is some text
    And the only worker runs the model "second"
    And 1 worker process runs
    When I ask the model "first" "What is the capital of Japan?"
    Then the answer is some text
    And the only worker runs the model "first"

    Examples:
      | topology    |
      | integrated  |
      | distributed |

  Scenario: a model that is pinned makes no room, and who is refused learns why
    Given an integrated cluster whose workers may have "380 MiB"
    And the models "first" and "second", of which only one fits
    When I run "rbee-keeper model policy first --pin true"
    Then it succeeds
    When I ask the model "first" "What is the capital of Japan?"
    And I ask the model "second" "What is the capital of Japan?" and expect no answer
    Then the status is 503
    And the answer says when to come again
    And the error mentions "CPU-0 cannot hold this"
    And the error mentions "workers may have 380.0 MiB in all"
    And the error mentions "(first, "
    And the error mentions "a smaller quantization"
    And the only worker runs the model "first"
    When I run "rbee-keeper model policy first --pin false"
    And I ask the model "second" "What is the capital of Japan?"
    Then the answer is some text
    And the only worker runs the model "second"

  Scenario: a model that alone is too large is refused with what it needs
    Given a distributed cluster whose workers may have "200 MiB"
    And the models "first" and "second", of which only one fits
    When I ask the model "first" "What is the capital of Japan?" and expect no answer
    Then the status is 503
    And the error mentions "workers may have 200.0 MiB in all ([hive] memory)"
    And the error mentions "--ctx-size"
    And no worker process runs
