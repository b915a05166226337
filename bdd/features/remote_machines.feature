@namespaces
Feature: Remote machines
  A second computer joins over SSH, answers with the others, and leaves nothing when it goes.

  Scenario: an empty machine becomes a hive
    Given a queen on the desk and an empty machine "gpu-1"
    When on the desk I run "rbee-keeper hive add gpu-1 --ssh bee@gpu-1"
    And on the desk I run "rbee-keeper hive install gpu-1"
    Then it succeeds
    And its stderr mentions "CPU-0"
    When on the desk I run "rbee-keeper hive start gpu-1"
    Then the desk shows the hive "gpu-1" as alive
    When the demo model runs on "gpu-1"
    And on the desk I run "rbee-keeper infer --model demo --max-tokens 8 Hello"
    Then it succeeds
    And its stdout is some text
    When on the desk I run "rbee-keeper hive uninstall gpu-1 --purge"
    Then it succeeds
    And nothing of rbee is left on "gpu-1"

  Scenario: a machine whose host key nobody has accepted
    Given a queen on the desk and an empty machine "gpu-1"
    And the desk has forgotten all host keys
    When on the desk I run "rbee-keeper hive add gpu-1 --ssh bee@gpu-1"
    And on the desk I run "rbee-keeper hive install gpu-1"
    Then it exits with 1
    And its stderr mentions "ssh bee@gpu-1"
    And nothing of rbee is left on "gpu-1"

  Scenario: a machine is cut off and comes back
    Given a queen on the desk and an empty machine "gpu-1"
    And the machine "gpu-1" is a hive
    When the cable of "gpu-1" is pulled
    Then the desk shows the hive "gpu-1" as gone
    When the cable of "gpu-1" is put back
    Then the desk shows the hive "gpu-1" as alive
