"""What goes wrong with a pretrained network in any SB3 model; the door is `stillsight.agents.diagnose`."""
