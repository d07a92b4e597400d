import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Pattern;

/** As much JSON as an action's flat parameters need. */
final class Json {
    private static final Pattern MEMBER = Pattern.compile("\"((?:[^\"\\\\]|\\\\.)*)\"\\s*:\\s*(?:\"((?:[^\"\\\\]|\\\\.)*)\"|(-?[0-9.eE+-]+)|(true|false|null))");

    static Map<String, Object> object(String text) {
        var members = new LinkedHashMap<String, Object>();
        var matcher = MEMBER.matcher(text);
        while (matcher.find()) {
            Object value = matcher.group(4);
            if (matcher.group(2) != null) {
                value = unescape(matcher.group(2));
            } else if (matcher.group(3) != null) {
                value = Double.valueOf(matcher.group(3));
            }
            members.put(unescape(matcher.group(1)), value);
        }
        return members;
    }

    static String quote(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    private static String unescape(String text) {
        var out = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            c = text.charAt(++i);
            switch (c) {
                case 'n' -> out.append('\n');
                case 'r' -> out.append('\r');
                case 't' -> out.append('\t');
                case 'u' -> {
                    out.append((char) Integer.parseInt(text.substring(i + 1, i + 5), 16));
                    i += 4;
                }
                default -> out.append(c);
            }
        }
        return out.toString();
    }

    private Json() {}
}
