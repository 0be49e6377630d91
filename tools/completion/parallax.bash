# Completion of parallax and parallaxd for bash: commands, options and their values, images, snapshots, files.
#
# What there is, is asked of the program: its help says which commands and options there are, which options take a value, and what
# each argument is; `ls` and `snap ls` give names. So nothing here has to be kept in step with it, but for words that a value may be.
# shellcheck shell=bash

_parallax_run() { "$program" "$@" 2>/dev/null </dev/null; }

# Options of a command, or of all: one a line, as "--name" or "--name VALUE", as "-n" too where there is one letter.
_parallax_options() { # COMMAND-WORD…
  _parallax_run "$@" --help | sed -n '/^Options/,/^$/{
    s/^  -\([a-z]\), --\([a-z-]*\)\( [^ ][^ ]*\)\? .*/-\1\3\n--\2\3/p
    s/^  --help, --version.*/--help\n--version/p
    s/^  --\([a-z-]*\)\( [^ ][^ ]*\)\?\( .*\|$\)/--\1\2/p
  }'
}

_parallaxd_options() { _parallax_run --help | sed -n 's/^  --help, --version.*/--help\n--version/p; s/^  --\([a-z-]*\) \([^ ][^ ]*\) .*/--\1 \2/p'; }

_parallax_names() { _parallax_run "${_parallax_store[@]}" --lock-timeout 1 ls; }
# All of an image, as NAME@SNAP.
_parallax_snapshots() { # NAME
  _parallax_run "${_parallax_store[@]}" --lock-timeout 1 snap ls "$1" | sed "1d; s/ .*//; s/^/$1@/"
}

_parallax_reply() { # WORD-LIST: those that begin with $cur
  local IFS=$'\n'
  # shellcheck disable=SC2207
  COMPREPLY+=($(compgen -W "$1" -- "$cur"))
}
_parallax_files() { # compgen option
  local IFS=$'\n'
  # shellcheck disable=SC2207
  COMPREPLY+=($(compgen "$1" -- "$cur"))
  compopt -o filenames 2>/dev/null
}

_parallax_value() { # OPTION, VALUE as the help calls it
  case "$1 $2" in
    '--store '*) _parallax_files -d ;;
    *' PATH' | '--adopt '*) _parallax_files -f ;;
    '--hypervisor '*) _parallax_reply $'auto\nxen\nlocal' ;;
    '--sort '*) _parallax_reply $'iops\nbytes\nread\nwrite\nlatency\nname' ;;
    '--from '*)
      case ${#arguments[@]}$cur in
        0* | *@*) _parallax_argument NAME@SNAP ;;
        *) _parallax_reply "$(_parallax_snapshots "${arguments[0]%%@*}" | sed 's/.*@//')" ;; # of the image that is compared
      esac ;;
    '--format F')
      case $command in
        import) _parallax_reply $'raw\nqcow2\nvhd\nvhdx\nvmdk\nvdi' ;;
        *) _parallax_reply $'raw\nqcow2\nvhd' ;;
      esac ;;
    '--owner '*) COMPREPLY+=($(compgen -u -- "$cur")) ;;
    *'|'*) _parallax_reply "${2//|/$'\n'}" ;;
  esac
}

_parallax_argument() { # KIND, as the help calls it
  case "$command $1" in
    'create NAME' | 'import NAME') ;; # a new one
    *' SRC' | *' DST') _parallax_files -f ;;
    *' DIR') _parallax_files -d ;;
    *@*)
      case $cur in
        *@*) _parallax_reply "$(_parallax_snapshots "${cur%%@*}")" ;;
        *) _parallax_reply "$(_parallax_names)" ;;
      esac
      if [[ $cur != *@* && $1 != *'[@'* ]]; then # a snapshot must follow
        COMPREPLY=("${COMPREPLY[@]/%/@}")
        compopt -o nospace 2>/dev/null
      fi ;;
    *' NAME' | *'[GLOB]') _parallax_reply "$(_parallax_names)" ;;
  esac
}

# An option, or its value: after it ($value is its line of $options), or behind an equals sign. 1: neither is being typed.
_parallax_option() {
  local option
  if [ -n "$value" ]; then
    _parallax_value "${value%% *}" "${value#* }"
  elif [[ $cur == --*=* ]]; then
    option=${cur%%=*} cur=${cur#*=}
    value=$(grep -m 1 -- "^$option " <<<"$options")
    [ -z "$value" ] || _parallax_value "$option" "${value#* }"
    COMPREPLY=("${COMPREPLY[@]/#/$option=}")
    cur=$option=$cur
  elif [[ $cur == -* ]]; then
    _parallax_reply "$(sed 's/ .*//' <<<"$options" | sort -u)"
  else
    return 1
  fi
  return 0
}

# Bash completes only what follows the last of its word breaks; an @ it completes too.
_parallax_cut() {
  local breaks=${COMP_WORDBREAKS//[[:space:]\"\']/} before=''
  [[ -n $breaks && $cur == *["$breaks"]* ]] && before=${cur%"${cur##*["$breaks"]}"}
  before=${before%@}
  [ -n "$before" ] && COMPREPLY=("${COMPREPLY[@]#"$before"}")
  return 0
}

_parallax() {
  local program=$1 line=${COMP_LINE:0:COMP_POINT} cur word value='' command='' options kind
  local -a words arguments=() kinds _parallax_store=()
  COMPREPLY=()
  cur=${line##*[[:space:]]}
  read -ra words <<<"${line%"$cur"}"
  options=$(_parallax_options)

  # What stands before the cursor: the command, how many arguments, and whether an option waits for its value.
  for word in "${words[@]:1}"; do
    if [ -n "$value" ]; then
      [ "${value%% *}" = --store ] && _parallax_store=(--store "$word")
      value=''
    elif [[ $word == --store=* ]]; then
      _parallax_store=("$word")
    elif [[ $word == -* ]]; then
      value=$(grep -m 1 -- "^$word " <<<"$options")
    elif [ -z "$command" ] || [ "$command" = snap ]; then
      command=${command:+$command }$word
      # shellcheck disable=SC2086
      [ "$word" = snap ] || options+=$'\n'$(_parallax_options $command)
    else
      arguments+=("$word")
    fi
  done

  if _parallax_option; then
    :
  elif [ -z "$command" ]; then
    _parallax_reply "$(_parallax_run --help | sed -n '/^Commands/,/^$/s/^  \([a-z-]*\).*/\1/p' | sort -u)"
  elif [ "$command" = snap ]; then
    _parallax_reply "$(_parallax_run --help | sed -n 's/^  snap \([a-z-]*\).*/\1/p')"
  else
    # "usage: parallax clone [OPTION …] SRC[@SNAP] NEW|PREFIX"
    # shellcheck disable=SC2086
    read -ra kinds <<<"$(_parallax_run $command --help | sed -n "1{s/^usage: parallax $command//; s/ \[OPTION …\]//; p}")"
    local n=${#kinds[@]} at=${#arguments[@]}
    [ "$n" -gt 1 ] && [ "${kinds[n - 1]}" = … ] && [ "$at" -ge $((n - 1)) ] && at=$((n - 2)) # the last one again
    kind=${kinds[at]:-}
    _parallax_argument "$kind"
  fi
  _parallax_cut
}

_parallaxd() {
  local program=$1 line=${COMP_LINE:0:COMP_POINT} cur value='' options
  local -a words arguments=()
  COMPREPLY=()
  cur=${line##*[[:space:]]}
  read -ra words <<<"${line%"$cur"}"
  options=$(_parallaxd_options)
  [ ${#words[@]} -gt 1 ] && value=$(grep -m 1 -- "^${words[-1]} " <<<"$options")
  _parallax_option
  _parallax_cut
}

complete -F _parallax parallax
complete -F _parallaxd parallaxd
