Feature: Policies
  An operator says how many workers a model has at most, and where they should run.

  Scenario: a queue that stays long starts no more workers than the model may have
    Given an integrated cluster
    And another machine "gpu-1"
    And the models "first" and "second" on this machine and on "gpu-1"
    When I run "rbee-keeper model policy first --max 1 --slots 1"
    Then it succeeds
    When I run "rbee-keeper model policy second --slots 1"
    Then it succeeds
    When I ask the model "first" "What is the capital of Japan?"
    And I ask the model "second" "What is the capital of Japan?"
    Given 4 people wait for very long answers of the model "first"
    And 4 people wait for very long answers of the model "second"
    Then 2 workers run the model "second" in the end
    And 1 worker runs the model "first" in the end
    And 1 worker was ever started for the model "first"
    And 2 workers were ever started for the model "second"

  Scenario Outline: a model's worker runs on the hive that is preferred, here <preferred>
    Given an integrated cluster with the demo model
    And another machine "gpu-1" with the demo model
    When I run "rbee-keeper model policy smollm2-135m --hive <preferred>"
    Then it succeeds
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And 1 worker runs on "<preferred>"
    And 0 workers run on "<other>"

    Examples:
      | preferred | other     |
      | localhost | gpu-1     |
      | gpu-1     | localhost |

  Scenario: a preferred hive and device that nobody has keep nobody waiting
    Given an integrated cluster with the demo model
    When I run "rbee-keeper model policy smollm2-135m --hive attic --device GPU-7"
    Then it succeeds
    When I ask "What is the capital of Japan?"
    Then the answer is some text
    And 1 worker runs on "localhost"
